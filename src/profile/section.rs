//! The sections of a profile, each in a file of its own, and how a section is written.

/// A section: a struct whose fields are its keys.
///
/// A field's type reads the value and bounds it, its doc comment is the key's help, and
/// what stands behind `=` is its default. Without a default a key is `None`, or has to
/// be set. A paragraph `Default: ...` of the doc comment says for people what `None`
/// comes to. `#[schemars(title = "..")]` says what the key takes where its type does not,
/// `extend("format" = "path")` that a relative path starts at its file's directory.
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
pub mod verify;
