//! Patterns over paths, in the words of `.gitignore`.

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::{Error, Result};

/// Patterns as in a `.gitignore` file: `*` stays within a folder and `**` does not; one without a slash before its end
/// matches a name at any depth, one with a slash matches from the top; a folder's pattern matches all that is in it; `!`
/// takes back what an earlier one matched.
#[derive(Clone, Debug)]
pub struct PathPatterns(Gitignore);

impl PathPatterns {
    /// Reads patterns; `None` when there are none.
    ///
    /// # Errors
    ///
    /// [`Error::Pattern`] when one does not parse.
    pub fn new(patterns: &[String]) -> Result<Option<Self>> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let refused =
                |error: ignore::Error| Error::Pattern { pattern: pattern.clone(), problem: error.to_string() };
            builder.add_line(None, pattern).map_err(refused)?;
        }
        let set = builder.build();
        set.map(|set| Some(Self(set)))
            .map_err(|error| Error::Pattern { pattern: patterns.join(" "), problem: error.to_string() })
    }

    /// Whether they match a file by its path from the top, or a folder that it is in.
    pub fn match_file(&self, path: &Path) -> bool {
        self.0.matched_path_or_any_parents(path, false).is_ignore()
    }

    /// Whether they match a file or a folder itself.
    pub(crate) fn match_entry(&self, path: &Path, is_dir: bool) -> bool {
        self.0.matched(path, is_dir).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(patterns: &[&str], path: &str, expected: bool) {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let patterns = PathPatterns::new(&patterns).unwrap().unwrap();
        assert_eq!(patterns.match_file(Path::new(path)), expected, "{patterns:?}");
    }

    #[test]
    fn names_match_at_any_depth_and_paths_from_the_top() {
        check(&["*.md"], "manual/en/a.md", true);
        check(&["manual"], "manual/en/a.md", true);
        check(&["manual/**"], "manual/en/a.md", true);
        check(&["manual/*.md"], "manual/en/a.md", false);
        check(&["en/*.md"], "manual/en/a.md", false);
        check(&["**/en/*.md"], "manual/en/a.md", true);
        check(&["*.txt"], "manual/en/a.md", false);
        check(&["manual", "!en"], "manual/a.md", true);
    }

    #[test]
    fn a_malformed_pattern_is_an_error_and_none_is_none() {
        assert!(matches!(PathPatterns::new(&["[z-a].md".into()]), Err(Error::Pattern { .. })));
        assert!(PathPatterns::new(&[]).unwrap().is_none());
    }
}
