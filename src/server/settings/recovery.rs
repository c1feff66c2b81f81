//! What recovery needs to be set besides its target.

use super::input::{Owner, Setting, SettingsInput};

/// PostgreSQL 15 and newer look into WAL behind the one that they replay. Where the
/// backup alone is wanted, what is missing or damaged there is of no interest.
pub fn read_ahead(input: &SettingsInput<'_>) -> Option<Setting> {
    let is_immediate =
        |(name, value): &(String, String)| name == "recovery_target" && value == "immediate";
    let stops_early = input.major >= 15 && input.recovery_target.iter().any(is_immediate);
    stops_early.then(|| Setting {
        name: "recovery_prefetch".to_owned(),
        value: "off".to_owned(),
        reason: "it would read WAL behind the target",
        owner: Owner::Fence,
    })
}

/// The user's value where it is high enough, else the least that will do.
pub fn limits<'a>(input: &'a SettingsInput<'_>) -> impl Iterator<Item = Setting> + 'a {
    input.limits.iter().map(|(name, least)| {
        let wanted = input.user.get(*name).and_then(|value| value.parse().ok());
        Setting {
            name: (*name).to_owned(),
            value: wanted
                .map_or(*least, |wanted: i32| wanted.max(*least))
                .to_string(),
            reason: "recovery needs it to be as high as the primary's",
            owner: Owner::Fence,
        }
    })
}
