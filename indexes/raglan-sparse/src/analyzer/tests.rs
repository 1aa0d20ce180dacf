//! What texts become.

use super::*;

#[track_caller]
fn check_with(config: &AnalyzerConfig, text: &str, expected: &[&str]) {
    let tokens = Analyzer::new(config).tokens(text);
    let terms: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    assert_eq!(terms, expected, "{text}");
    for token in &tokens {
        assert!(text.get(token.span.clone()).is_some_and(|span| !span.is_empty()), "{token:?}");
    }
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    check_with(&AnalyzerConfig::default(), text, expected);
}

#[test]
fn prose_is_lowered_stopped_and_stemmed() {
    check("The quick foxes were running.", &["quick", "fox", "were", "run"]);
    check("", &[]);
    check(" \n\t.,;-—…", &[]);
    check("and the of", &[]);
    check("state-of-the-art", &["state", "art"]);
    check("Ends. Next... a?b", &["end", "next", "b"]);
}

#[test]
fn possessives_go_and_other_apostrophes_stay() {
    check("the user's users' user’s don't", &["user", "user", "user", "don't"]);
    check("O'Neil’s don’t", &["o'neil", "don't"]);
}

#[test]
fn identifiers_are_kept_whole_and_split() {
    check("std::fs::File", &["std::fs::file", "std", "fs", "file"]);
    check("getUserName", &["getusernam", "get", "user", "name"]);
    check("getusername", &["getusernam"]);
    check("HTTP2Server", &["http2server", "http2", "server"]);
    check("parseURLs XMLHttpRequest", &["parseurl", "pars", "url", "xmlhttprequest", "xml", "http", "request"]);
    check("max_doc_count", &["max_doc_count", "max", "doc", "count"]);
    check("__init__ _x", &["init", "x"]);
    check("config.toml v1.2", &["config.toml", "config", "toml", "v1.2", "v1", "2"]);
    check("obj.fieldName()", &["obj.fieldname", "obj", "field", "name"]);
    check("Vec<u8>::new", &["vec", "u8", "new"]);
    check("x86_64 utf8 sha256", &["x86_64", "x86", "64", "utf8", "sha256"]);
    check("iPhones iphone", &["iphon", "i", "phone", "iphon"]);
    check("NASA URLs", &["nasa", "url"]);
}

#[test]
fn languages_with_signs_are_words() {
    check("C++ c# g++ F# C", &["c++", "c#", "g++", "f#", "c"]);
    check("a+++b C#m abc++", &["b", "c", "m", "abc"]);
}

#[test]
fn identifiers_stay_words_when_not_split() {
    let config = AnalyzerConfig { split_identifiers: false, ..AnalyzerConfig::default() };
    check_with(&config, "getUserName a.b::c max_doc", &["getusernam", "b", "c", "max_doc"]);
}

#[test]
fn diacritics_are_folded() {
    check("Café naïve Ångström e\u{301}clair", &["cafe", "naiv", "angstrom", "eclair"]);
    check("cafés co\u{AD}operate", &["cafe", "cooper"]);
}

#[test]
fn other_scripts_are_words_or_pairs() {
    check("Привет, мир", &["привет", "мир"]);
    check("東京都 に", &["東京", "京都", "に"]);
    check("Rust言語x", &["rust", "言語", "x"]);
    check("한국어", &["한국", "국어"]);
    check("हिन्दी", &["हिन्दी"]);
    check("क्षत्रिय वर्ग।", &["क्षत्रिय", "वर्ग"]);
}

#[test]
fn other_languages_have_their_own_stems_and_stop_words() {
    let of = |language| AnalyzerConfig { language, ..AnalyzerConfig::default() };
    check_with(&of(StemLanguage::German), "die Häuser und Automaten", &["haus", "automat"]);
    check_with(&of(StemLanguage::French), "l'hôpital nationaux", &["hopital", "national"]);
    check_with(&of(StemLanguage::None), "The Running dogs", &["the", "running", "dogs"]);
    for &language in StemLanguage::ALL {
        let config = of(language);
        assert_eq!(language.to_string().parse(), Ok(language));
        assert_eq!(Analyzer::new(&config).tokens("x1 y2").len(), 2);
        assert_eq!(serde_json::from_str::<AnalyzerConfig>(&config.fingerprint()).unwrap(), config);
    }
    assert!("klingon".parse::<StemLanguage>().is_err());
}

#[test]
fn spans_and_positions_follow_the_text() {
    let tokens = Analyzer::new(&AnalyzerConfig::default()).tokens("The café's std::fs");
    let got: Vec<_> = tokens.iter().map(|t| (t.text.as_str(), t.span.clone(), t.position)).collect();
    assert_eq!(got, [("cafe", 4..9, 1), ("std::fs", 12..19, 2), ("std", 12..15, 2), ("fs", 17..19, 3)]);
}

#[test]
fn remembered_words_are_what_they_were() {
    let analyzer = Analyzer::new(&AnalyzerConfig::default());
    let text = "Running THE internationalisations café runs the Running relational";
    let first = analyzer.tokens(text);
    for word in 0..40_000 {
        analyzer.tokens(&format!("word{word} Страна{word}"));
    }
    assert_eq!(analyzer.tokens(text), first);
    let together: Vec<String> = first.into_iter().map(|token| token.text).collect();
    let apart: Vec<String> = text
        .split(' ')
        .flat_map(|word| Analyzer::new(&AnalyzerConfig::default()).tokens(word))
        .map(|token| token.text)
        .collect();
    assert_eq!(together, apart);
}

#[test]
fn endless_words_are_left_out() {
    let blob = "A9".repeat(500);
    check(&format!("before {blob} after"), &["befor", "after"]);
    let dotted = vec!["part"; 60].join(".");
    assert_eq!(Analyzer::new(&AnalyzerConfig::default()).tokens(&dotted).len(), 60);
}
