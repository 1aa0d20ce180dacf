//! What a user would type finds the text that is meant, in many languages and in code.

use raglan_core::{ChunkId, ChunkSet, Retriever};
use raglan_sparse::{AnalyzerConfig, Bm25Index, Bm25SegmentWriter, StemLanguage};

/// For each query, the first text found is the one that is expected; none when nothing is to be found.
#[track_caller]
fn check(language: StemLanguage, texts: &[&str], queries: &[(&str, Option<u32>)]) {
    let folder = tempfile::tempdir().unwrap();
    let config = AnalyzerConfig { language, ..AnalyzerConfig::default() };
    let mut writer = Bm25SegmentWriter::create(folder.path(), &config, 1).unwrap();
    for (id, text) in (0..).zip(texts) {
        writer.add(ChunkId(id), text).unwrap();
    }
    writer.finish().unwrap();
    let index = Bm25Index::open(&[folder.path().to_owned()], &ChunkSet::new(), &config).unwrap();
    let mut wrong = Vec::new();
    for &(query, expected) in queries {
        let found = index.search(&[query.into()], 1).unwrap()[0].ids().first().map(|id| id.0);
        if found != expected {
            wrong.push(format!("`{query}` finds {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{language:?}: {wrong:#?}");
}

/// By default, and without any stemmer.
const PLAIN: [StemLanguage; 2] = [StemLanguage::English, StemLanguage::None];

#[test]
fn chinese_words_are_found_inside_of_sentences() {
    let texts = [
        "数据库索引可以加快查询速度。",
        "机器学习模型需要大量训练数据",
        "今天北京的天气很好，适合去公园散步",
        "繁體中文的搜尋引擎也要能用",
    ];
    let queries = [
        ("索引", Some(0)),
        ("数据库 查询", Some(0)),
        ("如何加快查询速度？", Some(0)),
        ("机器学习", Some(1)),
        ("北京天气", Some(2)),
        ("搜尋引擎", Some(3)),
        ("汽车", None),
        // Known: terms are pairs, so a character alone is found only where it stands alone.
        ("库", None),
    ];
    for language in PLAIN {
        check(language, &texts, &queries);
    }
}

#[test]
fn japanese_is_found_in_each_of_its_scripts() {
    let texts = [
        "データベースのインデックスは検索を速くする。",
        "東京タワーへ行くには地下鉄が便利です",
        "ひらがなだけでかいたぶんしょう",
        "ﾃﾞｰﾀを保存する",
    ];
    let queries = [
        ("データベース", Some(0)),
        ("インデックス", Some(0)),
        ("検索", Some(0)),
        ("東京タワー", Some(1)),
        ("地下鉄", Some(1)),
        ("ひらがな", Some(2)),
        ("保存", Some(3)),
        ("自転車", None),
    ];
    for language in PLAIN {
        check(language, &texts, &queries);
    }
}

#[test]
fn korean_is_found_with_any_particle() {
    let texts =
        ["데이터베이스의 색인은 검색을 빠르게 합니다.", "서울에서 부산까지 기차로 갑니다", "한국어를 배우고 있어요"];
    let queries = [
        ("데이터베이스", Some(0)),
        ("색인", Some(0)),
        ("검색이", Some(0)),
        ("서울", Some(1)),
        ("부산에서", Some(1)),
        ("한국어", Some(2)),
        ("자동차", None),
    ];
    for language in PLAIN {
        check(language, &texts, &queries);
    }
}

#[test]
fn german_is_found_in_other_forms_and_spellings() {
    let texts =
        ["Die Häuser der Straße wurden größer gebaut.", "Automaten verkaufen Fahrkarten", "Er lief über die Brücke"];
    let queries = [
        ("Haus", Some(0)),
        ("haeuser", Some(0)),
        ("häuser", Some(0)),
        ("STRASSE", Some(0)),
        ("strasse", Some(0)),
        ("Straßen", Some(0)),
        ("Automat", Some(1)),
        ("fahrkarte", Some(1)),
        ("Brücken", Some(2)),
        ("brucke", Some(2)),
    ];
    check(StemLanguage::German, &texts, &queries);
    // Without its stemmer, as the words are written, or without the marks.
    let plain = [("häuser", Some(0)), ("Hauser", Some(0)), ("strasse", Some(0)), ("brücke", Some(2))];
    for language in PLAIN {
        check(language, &texts, &plain);
    }
}

#[test]
fn russian_is_found_in_other_cases() {
    let texts = ["Индексы базы данных ускоряют поиск.", "Ёлка стоит в большом доме", "Он пишет книги"];
    let queries = [
        ("индекс", Some(0)),
        ("БАЗА", Some(0)),
        ("поиска", Some(0)),
        ("дом", Some(1)),
        ("ёлки", Some(1)),
        ("елка", Some(1)),
        ("книга", Some(2)),
        ("машина", None),
    ];
    check(StemLanguage::Russian, &texts, &queries);
    for language in PLAIN {
        check(language, &texts, &[("индексы", Some(0)), ("ПОИСК", Some(0)), ("дом", None)]);
    }
}

#[test]
fn identifiers_are_found_by_their_words_and_in_other_styles() {
    let texts = [
        "fn getUserName(&self) -> String",
        "def max_doc_count(index): ...",
        "impl HttpServer { pub fn with_timeout() }",
        "use std::collections::HashMap;",
        "const MAX_RETRY_COUNT = 3",
        "element.addEventListener('click')",
        "kebab-case-option --dry-run",
    ];
    let queries = [
        ("getUserName", Some(0)),
        ("get_user_name", Some(0)),
        ("user name", Some(0)),
        ("GetUserName", Some(0)),
        ("maxDocCount", Some(1)),
        ("max doc count", Some(1)),
        ("HTTPServer", Some(2)),
        ("http server timeout", Some(2)),
        ("withTimeout", Some(2)),
        ("HashMap", Some(3)),
        ("hash map", Some(3)),
        ("std::collections", Some(3)),
        ("maxRetryCount", Some(4)),
        ("retry", Some(4)),
        ("event listener", Some(5)),
        ("add-event-listener", Some(5)),
        ("dryRun", Some(6)),
        ("--dry-run", Some(6)),
    ];
    for language in PLAIN {
        check(language, &texts, &queries);
    }
}
