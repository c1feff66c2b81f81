//! The sections of a profile, each in its own file, and the macro that defines a
//! section.

/// Defines a section: a struct whose fields are its keys.
///
/// A field's type parses and bounds the value, its doc comment is the key's help, and the
/// expression after `=` is its default. Without a default a key is `None`, or has to be
/// set. A paragraph `Default: ...` of the doc comment describes for people what `None`
/// means. `#[schemars(title = "..")]` describes the accepted values if the type does not;
/// `extend("format" = "path")` makes a relative path start at the directory of its file.
macro_rules! section {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $( $(#[$of_field:meta])* $visibility:vis $field:ident: $type:ty $(= $default:expr)?, )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields, expecting = "a section of keys")]
        pub struct $name {
            $( $(#[$of_field])* $visibility $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: section!(@default $($default)?), )* }
            }
        }
    };
    (@default $default:expr) => { $default };
    (@default) => { Default::default() };
}

pub mod expectation;
pub mod fence;
pub mod fuse;
pub mod log;
pub mod postgres;
pub mod recovery;
pub mod storage;
pub mod verify;
