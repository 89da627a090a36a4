//! Patterns of tensors' names.
//!
//! A name is no path: `*` matches any characters, dots and slashes among them. A pattern is held against the whole name.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Compiled patterns.
pub(super) struct Names {
    set: GlobSet,
    patterns: Vec<String>,
}

impl Names {
    /// # Errors
    /// [`Error::Usage`] for what is no pattern.
    pub(super) fn new(patterns: &[String]) -> Result<Self> {
        let refused = |error: globset::Error| Error::Usage(format!("not a pattern: {error}"));
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(true).build();
            set.add(glob.map_err(refused)?);
        }
        Ok(Self { set: set.build().map_err(refused)?, patterns: patterns.to_vec() })
    }

    /// True if one of the patterns matches, or there is none.
    pub(super) fn is_match(&self, name: &str) -> bool {
        self.patterns.is_empty() || self.set.is_match(name)
    }

    /// True if there is a pattern.
    pub(super) fn is_choosy(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// The patterns that match none of these names.
    pub(super) fn unmet<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<&str> {
        let mut met = vec![false; self.patterns.len()];
        names.for_each(|name| self.set.matches(name).into_iter().for_each(|at| met[at] = true));
        self.patterns.iter().zip(met).filter(|(_, met)| !met).map(|(pattern, _)| pattern.as_str()).collect()
    }

    /// True if every pattern is a name, without anything that stands for other characters: then it is known whether all
    /// that was asked for is found.
    pub(super) fn are_plain(&self) -> bool {
        self.patterns.iter().all(|pattern| !pattern.contains(['*', '?', '[', '{', '\\']))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("model.*", "model.layers.0.weight", true),
            ("*.weight", "model.layers.0.weight", true),
            ("model.*.weight", "model.layers.0.bias", false),
            ("weight", "model.weight", false),
            ("layer.?.w", "layer.7.w", true),
            ("layer.[0-3].w", "layer.4.w", false),
            ("{a,b}.w", "b.w", true),
            ("params*kernel", "params/dense/kernel", true),
            ("layerX0", "layer.0", false),
            ("a\\*", "a*", true),
            ("*", "", true),
        ] {
            let names = Names::new(&[pattern.to_owned()]).unwrap();
            assert_eq!(names.is_match(name), expected, "{pattern} {name}");
        }
        assert!(Names::new(&[]).unwrap().is_match("anything"));
        assert!(matches!(Names::new(&["a[".to_owned()]).err(), Some(Error::Usage(_))));
    }

    #[test]
    fn patterns_that_nothing_met_are_told() {
        let names = Names::new(&["a*".to_owned(), "b".to_owned(), "c".to_owned()]).unwrap();
        assert_eq!(names.unmet(["ab", "c"].into_iter()), ["b"]);
        assert!(!names.are_plain());
        assert!(Names::new(&["b.c".to_owned()]).unwrap().are_plain());
    }
}
