//! The binary as a plugin of kubectl, which finds it on the PATH by its name: `kubectl wtr`.

use clap::Command;
use clap_complete::engine;
use std::ffi::OsString;
use std::path::Path;

/// What kubectl runs for `kubectl wtr`.
const PLUGIN: &str = "kubectl-wtr";
/// What kubectl runs to complete the words after `kubectl wtr`.
const COMPLETION: &str = "kubectl_complete-wtr";
/// What comes after the candidates: no file names beside them.
const NO_FILES: &str = ":4\n";

/// By which name it was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// Its own.
    Itself,
    /// As `kubectl wtr`.
    Plugin,
    /// By kubectl, to complete words.
    ToComplete,
}

impl Called {
    /// By the first word of the command line.
    pub(super) fn by(program: Option<&OsString>) -> Self {
        let program = program.map(Path::new).and_then(Path::file_stem);
        match program.and_then(|it| it.to_str()) {
            Some(PLUGIN) => Self::Plugin,
            Some(COMPLETION) => Self::ToComplete,
            _ => Self::Itself,
        }
    }

    /// The command line, which speaks of itself by the name it was called.
    pub(super) fn dress(self, command: Command) -> Command {
        if self == Self::Itself {
            return command;
        }
        // With the space: the names of annotations begin with it too.
        let its_own = format!("{} ", command.get_name());
        let command = command.name(PLUGIN).bin_name("kubectl wtr");
        command.mut_subcommands(|command| match command.get_after_help() {
            Some(text) => {
                let text = text.to_string().replace(&its_own, "kubectl wtr ");
                command.after_help(text)
            }
            None => command,
        })
    }
}

/// What may stand in the place of the last of `words`, one a line, in the format that kubectl reads.
pub(super) fn candidates(command: Command, mut words: Vec<OsString>) -> String {
    if words.is_empty() {
        words.push(OsString::new());
    }
    let last = words.len();
    words.insert(0, PLUGIN.into());
    let mut command = Called::Plugin.dress(command);
    let here = std::env::current_dir().ok();
    let found = engine::complete(&mut command, words, last, here.as_deref());
    let found = found.unwrap_or_default();
    let lines = found
        .iter()
        .map(|it| format!("{}\n", it.get_value().to_string_lossy()));
    lines.chain([NO_FILES.to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn it_knows_by_which_name_it_was_called() {
        let called = |name: &str| Called::by(Some(&name.into()));
        assert_eq!(called("/usr/local/bin/kubectl-wtr"), Called::Plugin);
        assert_eq!(called("kubectl_complete-wtr"), Called::ToComplete);
        assert_eq!(called("/astro-token-operator"), Called::Itself);
        assert_eq!(Called::by(None), Called::Itself);
    }

    #[test]
    fn as_a_plugin_no_example_names_the_binary() {
        let named = |called: Called| {
            let command = called.dress(Cli::command());
            let examples = command
                .get_subcommands()
                .filter_map(Command::get_after_help);
            examples
                .filter(|text| text.to_string().contains("astro-token-operator "))
                .count()
        };
        assert!(named(Called::Itself) > 4);
        assert_eq!(named(Called::Plugin), 0);
        let mut plugin = Called::Plugin.dress(Cli::command());
        let trigger = plugin.find_subcommand_mut("trigger").unwrap();
        let help = trigger.render_help().to_string();
        assert!(help.contains("kubectl wtr trigger ci-deployer"), "{help}");
        assert!(help.contains("astro-token-operator.io/rotate"), "{help}");
    }

    #[test]
    fn words_are_completed_as_kubectl_reads_it() {
        let complete =
            |words: &[&str]| candidates(Cli::command(), words.iter().map(OsString::from).collect());
        assert_eq!(complete(&["st"]), "status\n:4\n");
        assert_eq!(complete(&["explain", "TokenAm"]), "TokenAmbiguous\n:4\n");
        assert_eq!(complete(&["status", "--all"]), "--all-namespaces\n:4\n");
        assert_eq!(complete(&["status", "-o", "j"]), "json\n:4\n");
        assert_eq!(complete(&["no-such-command", "x"]), ":4\n");
        assert!(complete(&[]).contains("trigger\n"));
    }
}
