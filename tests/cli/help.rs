//! Help and usage of every command.

use crate::common::*;

/// The subcommands that the main help lists.
fn subcommands() -> Vec<String> {
    let help = stdout(&run(vortex_fs().arg("--help"), GOOD));
    let list = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    list.lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_has_help_with_an_example() {
    let names = subcommands();
    assert!(
        names.iter().any(|n| n == "compress") && names.len() >= 6,
        "{names:?}"
    );
    for name in names {
        let help = stdout(&run(vortex_fs().args([&name, "--help"]), GOOD));
        assert!(help.contains("Usage:"), "{name}: {help}");
        let example = help
            .split("Example")
            .nth(1)
            .unwrap_or_else(|| panic!("{name} has no example: {help}"));
        assert!(example.contains("vortex-"), "{name}: {help}");
    }
    for mut program in [vortex_compress(), vortex_decompress()] {
        let help = stdout(&run(program.arg("--help"), GOOD));
        assert!(help.contains("Examples:"), "{help}");
    }
}

#[test]
fn every_command_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CLI.md");
    let document = std::fs::read_to_string(path).unwrap();
    for name in subcommands() {
        assert!(
            document.contains(&format!("\n## vortex-fs {name}")),
            "docs/CLI.md has no section on {name}"
        );
    }
}

#[test]
fn wrong_usage_is_exit_code_1() {
    for args in [
        &[][..],
        &["no-such-command"],
        &["cat"],
        &["stat", "--no-such-option", "x"],
        &["cat", "--range", "x", "y"],
    ] {
        let output = run(vortex_fs().args(args), FAILED);
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
    run(vortex_compress().args(["--block-size", "10K", "x"]), FAILED);
    run(vortex_compress().args(["-o", "x", "-c", "y"]), FAILED);
}

#[test]
fn versions_are_printed() {
    for mut program in [vortex_fs(), vortex_compress(), vortex_decompress()] {
        let text = stdout(&run(program.arg("--version"), GOOD));
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    }
}
