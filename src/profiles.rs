//! Profiles that come with the program.
//!
//! A profile is a model file; docs/TRAINING.md says how the built-in ones were made.

/// Names of the built-in profiles that have weights.
pub const NAMES: &[&str] = &["fast", "default", "edge"];

/// Profiles for which there is a configuration but no weights.
const CONFIGURED: &[&str] = &["large"];

/// The model file of a built-in profile.
#[must_use]
pub fn builtin(name: &str) -> Option<&'static [u8]> {
    match name {
        "fast" => Some(include_bytes!("../profiles/fast.safetensors")),
        "default" => Some(include_bytes!("../profiles/default.safetensors")),
        "edge" => Some(include_bytes!("../profiles/edge.safetensors")),
        _ => None,
    }
}

/// What to tell somebody who asked for a profile that there is none of.
#[must_use]
pub fn remedy(name: &str) -> String {
    if CONFIGURED.contains(&name) {
        return format!(
            "this profile has no weights yet: train it with `vortex-fs train --data PATH --config configs/{name}.yaml \
             --out {name}.safetensors`, or use one of: {}",
            NAMES.join(", ")
        );
    }
    format!("built-in profiles are: {}", NAMES.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Effort, Model};

    #[test]
    fn every_built_in_profile_loads_and_is_small() {
        for name in NAMES {
            let bytes = builtin(name).unwrap();
            assert!(bytes.len() < 2 << 20);
            let model = Model::from_bytes(bytes).unwrap();
            let effort = model.config().effort;
            assert_eq!(effort == Effort::Dense, *name == "default", "{name}");
            assert!(model.mixer().is_some(), "{name}");
        }
    }

    #[test]
    fn profiles_without_weights_come_with_the_way_to_make_them() {
        assert!(builtin("large").is_none());
        assert!(remedy("large").contains("train"));
        assert!(remedy("quick").contains("fast"));
    }
}
