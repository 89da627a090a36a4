//! Tests of patterns and markers. How a walk applies them is tested with the walk.

use super::*;

fn patterns(patterns: &[&str]) -> Excludes {
    let patterns = patterns.iter().map(ToString::to_string).collect();
    Excludes::new(ExcludeOptions { patterns, ..ExcludeOptions::default() }).unwrap()
}

/// Checks paths against patterns; a path that ends in `/` is a directory.
fn check(excludes: &Excludes, excluded: &[&str], kept: &[&str]) {
    let verdict = |path: &str| excludes.is_excluded(path.trim_end_matches('/').as_bytes(), path.ends_with('/'));
    for path in excluded {
        assert!(verdict(path), "{path} must be excluded");
    }
    for path in kept {
        assert!(!verdict(path), "{path} must be kept");
    }
}

#[test]
fn a_table_of_patterns() {
    let table: &[(&[&str], &[&str], &[&str])] = &[
        (&[], &[], &["a", "b/"]),
        (&["*.o"], &["a.o", "x/y/a.o", "dir.o/", ".o"], &["a.oo", "a.o/b", "o"]),
        (&["cache"], &["cache", "home/u/cache/"], &["cached", "cache/x", "my cache"]),
        (&["cache/"], &["cache/", "home/u/cache/"], &["cache", "home/u/cache"]),
        (&["/home/*/tmp"], &["home/u/tmp", "home/u/tmp/"], &["home/tmp", "home/u/v/tmp", "x/home/u/tmp"]),
        (&["home/u"], &["home/u", "x/home/u", "x/y/home/u/"], &["home/u/v", "xhome/u", "home/x/u"]),
        (&["build/*.o"], &["build/a.o", "x/build/a.o"], &["build/x/a.o", "a.o"]),
        (&["a/**/b/"], &["a/b/", "x/a/y/z/b/"], &["a/b", "xa/b/"]),
        (&["/top"], &["top"], &["x/top"]),
        (&["**/a/b"], &["a/b", "x/a/b", "x/y/a/b"], &["a/x/b", "xa/b"]),
        (&["/srv/**/log"], &["srv/log", "srv/a/log", "srv/a/b/log"], &["log", "srvx/log"]),
        (&["/srv/**"], &["srv/a", "srv/a/b"], &["srv/", "x/srv/a"]),
        (&["*.log", "!keep.log"], &["a.log"], &["keep.log", "x/keep.log"]),
        (&["!keep.log", "*.log"], &["keep.log"], &[]),
        (&["x", "!x/"], &["x"], &["x/"]),
        (&["file?.txt"], &["file1.txt"], &["file.txt", "file12.txt", "file/.txt"]),
        (&["[a-c]x", "{one,two}"], &["ax", "one", "d/two"], &["dx", "three"]),
        (&["\\*", "\\!x", "#y"], &["*", "!x", "#y"], &["a", "x", "y"]),
        (&["Größe"], &["Größe"], &["Große", "größe"]),
        (&["a b "], &["a b "], &["a b"]),
    ];
    for (given, excluded, kept) in table {
        println!("{given:?}");
        check(&patterns(given), excluded, kept);
    }
}

#[test]
fn names_that_are_not_utf8_match() {
    let excludes = patterns(&["*.bak", "x?y"]);
    assert!(excludes.is_excluded(b"dir\xff/\xfe\x80.bak", false));
    assert!(excludes.is_excluded(b"x\xffy", false));
    assert!(!excludes.is_excluded(b"\xff.bak\xff", false));
}

#[test]
fn files_of_patterns_and_letter_case() {
    let excludes = Excludes::new(ExcludeOptions {
        patterns: vec!["Exact".into()],
        patterns_ignore_case: vec!["*.JPG".into()],
        pattern_files: vec!["# comment\n\n*.tmp  \r\n!Exact\n\\#hash\n".into(), "last/".into()],
        ..ExcludeOptions::default()
    })
    .unwrap();
    check(&excludes, &["a.jpg", "b.JpG", "c.tmp", "#hash", "last/"], &["Exact", "c.TMP", "# comment", "last"]);
    assert!(excludes.has_patterns() && !Excludes::default().has_patterns());
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for pattern in ["", "/", "!", "a[", "{a", "!/"] {
        let error = Excludes::new(ExcludeOptions { patterns: vec![pattern.into()], ..ExcludeOptions::default() });
        let Err(Error::Usage(text)) = error else { panic!("{pattern:?} was taken") };
        assert!(text.contains(&format!("{pattern:?}")), "{text}");
    }
    for marker in ["", ":header", "a/b", "..", "nul\0"] {
        let error = Excludes::new(ExcludeOptions { if_present: vec![marker.into()], ..ExcludeOptions::default() });
        assert!(matches!(error, Err(Error::Usage(_))), "{marker:?} was taken");
    }
}

#[test]
fn markers_as_they_are_given() {
    let options = ExcludeOptions {
        if_present: vec![".nobackup".into(), "TAG:head: with colon".into()],
        cachedir_tag: true,
        ..ExcludeOptions::default()
    };
    let excludes = Excludes::new(options).unwrap();
    let given: Vec<_> = excludes.markers().iter().map(|marker| (marker.name(), marker.header.as_slice())).collect();
    let expected: [(&CStr, &[u8]); 3] =
        [(c".nobackup", b""), (c"TAG", b"head: with colon"), (c"CACHEDIR.TAG", CACHEDIR_SIGNATURE)];
    assert_eq!(given, expected);
}

#[test]
fn places_are_exact_whatever_their_bytes() {
    let place = |path: &[u8], beginning| ExactPlace { path: path.to_vec(), beginning };
    let places = vec![place(b"/a/\xffb*", false), place(b"/t/scratch-\xfe", true)];
    let patterns = vec!["!**".to_owned()];
    let excludes = Excludes::new(ExcludeOptions { patterns, places, ..ExcludeOptions::default() }).unwrap();
    for (path, excluded) in [
        (&b"a/\xffb*"[..], true),
        (b"a/\xfeb*", false),
        (b"a/\xffbc", false),
        (b"a/\xffb*c", false),
        (b"x/a/\xffb*", false),
        (b"t/scratch-\xfe", true),
        (b"t/scratch-\xfe1234", true),
        (b"t/scratch-\xfe1234/below", false),
        (b"t/scratch-", false),
    ] {
        assert_eq!(excludes.is_excluded(path, true), excluded, "{path:?}");
        assert!(!excludes.is_excluded(path, false), "{path:?}: only directories");
    }
    let places = vec![place(b"/a", false)];
    assert!(Excludes::new(ExcludeOptions { places, ..ExcludeOptions::default() }).unwrap().has_patterns());
}
