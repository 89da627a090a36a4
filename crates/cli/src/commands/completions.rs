//! `seawall completions`: the shell completion script, made from the same definitions as the help.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall completions bash > ~/.local/share/bash-completion/completions/seawall
    seawall completions zsh  > ~/.zfunc/_seawall
    seawall completions fish > ~/.config/fish/completions/seawall.fish";

/// Print a completion script for a shell
///
/// Put it where your shell looks for completions.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

impl Arguments {
    /// Prints the script.
    ///
    /// # Errors
    /// When standard output can't be written.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::arguments::Arguments::command(), "seawall", &mut script);
        run.output.raw(&script)?;
        Outcome::done(serde_json::json!({ "shell": self.shell.to_string() }))
    }
}
