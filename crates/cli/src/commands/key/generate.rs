//! `seawall key generate`: an identity file.

use std::path::PathBuf;

use seawall_engine::crypto::wrap;
use seawall_engine::format::slot;
use zeroize::Zeroizing;

use crate::keys;
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall key generate ~/seawall.identity
    seawall key add --role owner --label anna --recipient seawall-public-1:5c0f...
    seawall --identity-file ~/seawall.identity -r /backup/repo snapshots";

/// Make an identity file, and print its public key
///
/// The file stays with who makes it. An owner of a repository adds the public key, which is no secret
/// (`key add --recipient`); then the file opens that repository. One identity may open several.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The file to make, with mode 0600
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

impl Arguments {
    /// Makes it.
    ///
    /// # Errors
    /// When the file exists or can't be written.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let (identity, public) = wrap::generate();
        let public = slot::public_key_text(&public);
        let secret = slot::identity_text(&identity);
        let mut text = Zeroizing::new(String::with_capacity(secret.len() + public.len() + 3));
        text.push_str(&secret);
        text.push_str("# ");
        text.push_str(&public);
        text.push('\n');
        keys::write_private(&self.file, &text)?;
        run.output.line(&public)?;
        Outcome::done(serde_json::json!({ "file": self.file.display().to_string(), "public_key": public }))
    }
}
