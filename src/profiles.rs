//! Profiles that come with the program.

/// Names of the built-in profiles that have weights.
pub const NAMES: &[&str] = &[];

/// The model file of a built-in profile.
#[must_use]
pub fn builtin(_name: &str) -> Option<&'static [u8]> {
    None
}

/// What to tell somebody who asked for a profile that there is none of.
#[must_use]
pub fn remedy(_name: &str) -> String {
    format!("built-in profiles are: {}", NAMES.join(", "))
}
