//! Settings that recovery needs besides its target.

use super::input::{DecidedBy, Setting, SettingsInput};

/// Turns off prefetching if only the backup is wanted. PostgreSQL 15 and newer read
/// ahead of the WAL that they replay; whether WAL there is missing or damaged does
/// not matter then.
pub fn read_ahead(input: &SettingsInput<'_>) -> Option<Setting> {
    let is_immediate =
        |(name, value): &(String, String)| name == "recovery_target" && value == "immediate";
    let stops_early = input.major >= 15 && input.recovery_target.iter().any(is_immediate);
    stops_early.then(|| Setting {
        name: "recovery_prefetch".to_owned(),
        value: "off".to_owned(),
        reason: "it would read WAL beyond the target",
        owner: DecidedBy::Fence,
    })
}

/// Returns, for each limit, the user's value if it is high enough, else the minimum.
pub fn limits<'a>(input: &'a SettingsInput<'_>) -> impl Iterator<Item = Setting> + 'a {
    input.limits.iter().map(|(name, least)| {
        let wanted = input.user.get(*name).and_then(|value| value.parse().ok());
        Setting {
            name: (*name).to_owned(),
            value: wanted
                .map_or(*least, |wanted: i32| wanted.max(*least))
                .to_string(),
            reason: "recovery needs it to be at least as high as the primary's",
            owner: DecidedBy::Fence,
        }
    })
}
