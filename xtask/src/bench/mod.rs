//! placeholder
use std::path::Path;
pub struct Options;
impl Options {
    pub fn parse(_: &Path, _: &[String]) -> anyhow::Result<Self> {
        Ok(Self)
    }
}
pub fn run(_: &Path, _: &Options) -> anyhow::Result<bool> {
    Ok(true)
}
