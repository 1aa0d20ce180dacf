//! Source code: definitions by syntax, named and nested.

use std::ops::ControlFlow;
use std::ops::Range;
use std::time::Instant;

use raglan_core::{BlockKind, Format, Language, MarkKind, ParsedDocument};
use tree_sitter::{Node, ParseOptions, ParseState, Parser, Tree};

use super::Task;
use crate::SkipReason;
use crate::structure::{Structure, collapse};

/// A definition up to this many bytes is one block; a larger one is parted at the definitions within it.
const BLOCK: usize = 1500;

/// Definitions are told apart to this depth of nesting.
const MAX_LEVEL: usize = 32;

pub(super) fn read(language: Language, text: String, task: &Task<'_>) -> Result<ParsedDocument, SkipReason> {
    let mut structure = Structure::default();
    if let Some(tree) = parse(language, &text, task.deadline) {
        definitions(&tree, &text, &mut structure, task)?;
    }
    // Code that takes too long to parse still has its lines.
    Ok(structure.into_document(Format::Code(language), text, BlockKind::Code))
}

/// The syntax tree; `None` when parsing takes more than half of the time that is left.
fn parse(language: Language, text: &str, deadline: Instant) -> Option<Tree> {
    let grammar = match language {
        Language::C => tree_sitter_c::LANGUAGE,
        Language::Cpp => tree_sitter_cpp::LANGUAGE,
        Language::Go => tree_sitter_go::LANGUAGE,
        Language::Java => tree_sitter_java::LANGUAGE,
        Language::JavaScript => tree_sitter_javascript::LANGUAGE,
        Language::Python => tree_sitter_python::LANGUAGE,
        Language::Rust => tree_sitter_rust::LANGUAGE,
        Language::Tsx => tree_sitter_typescript::LANGUAGE_TSX,
        Language::TypeScript => tree_sitter_typescript::LANGUAGE_TYPESCRIPT,
    };
    let mut parser = Parser::new();
    parser.set_language(&grammar.into()).expect("the grammars fit the library");
    let enough = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let mut progress = |_: &ParseState| {
        if Instant::now() < enough { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let options = ParseOptions::new().progress_callback(&mut progress);
    parser.parse_with_options(&mut |at, _| &text.as_bytes()[at.min(text.len())..], None, Some(options))
}

struct Open {
    span: Range<usize>,
    n_blocks: usize,
    level: u8,
}

fn definitions(tree: &Tree, text: &str, structure: &mut Structure, task: &Task<'_>) -> Result<(), SkipReason> {
    let mut open: Vec<Open> = Vec::new();
    let mut cursor = tree.walk();
    let mut n_nodes = 0_usize;
    loop {
        let node = cursor.node();
        n_nodes += 1;
        if n_nodes.is_multiple_of(1 << 16) {
            task.check_time()?;
        }
        close(&mut open, node.start_byte(), structure);
        if open.len() < MAX_LEVEL
            && node.is_named()
            && let Some(name) = definition(node, text)
        {
            let start = with_what_leads(node).max(open.last().map_or(0, |outer| outer.span.start));
            let level = u8::try_from(open.len() + 1).expect("it is at most 32");
            structure.mark(start, MarkKind::Heading { level, title: name });
            open.push(Open { span: start..node.end_byte(), n_blocks: structure.blocks.len(), level });
        }
        if cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                close(&mut open, usize::MAX, structure);
                return Ok(());
            }
        }
    }
}

/// Ends the definitions that end at or before `at`.
fn close(open: &mut Vec<Open>, at: usize, structure: &mut Structure) {
    while let Some(Open { span, n_blocks, level }) = open.pop_if(|inner| inner.span.end <= at) {
        structure.mark(span.end, MarkKind::SectionEnd { level });
        if span.len() <= BLOCK {
            structure.blocks.truncate(n_blocks);
        }
        if structure.blocks.len() == n_blocks {
            structure.block(BlockKind::Definition, span);
        }
    }
}

/// The name of what the node defines.
fn definition(node: Node<'_>, text: &str) -> Option<String> {
    let named = |field: &str| node.child_by_field_name(field).map(|name| collapse(&text[name.byte_range()]));
    let name = match node.kind() {
        "function_item"
        | "struct_item"
        | "enum_item"
        | "union_item"
        | "trait_item"
        | "mod_item"
        | "macro_definition"
        | "class_definition"
        | "function_declaration"
        | "generator_function_declaration"
        | "class_declaration"
        | "abstract_class_declaration"
        | "method_definition"
        | "interface_declaration"
        | "enum_declaration"
        | "type_alias_declaration"
        | "internal_module"
        | "method_declaration"
        | "type_spec"
        | "namespace_definition"
        | "record_declaration"
        | "constructor_declaration"
        | "annotation_type_declaration" => named("name"),
        "impl_item" => match (named("trait"), named("type")) {
            (Some(role), Some(implementor)) => Some(format!("{role} for {implementor}")),
            (_, implementor) => implementor,
        },
        // Python's has a name, that of C and C++ is inside of what it declares.
        "function_definition" => named("name").or_else(|| declared_name(node, text)),
        "struct_specifier" | "class_specifier" | "union_specifier" | "enum_specifier" => {
            node.child_by_field_name("body")?;
            named("name")
        }
        "variable_declarator" => {
            let value = node.child_by_field_name("value")?.kind();
            matches!(value, "arrow_function" | "function_expression" | "class").then(|| named("name"))?
        }
        _ => None,
    };
    name.filter(|name| !name.is_empty() && name.len() <= 200)
}

fn declared_name(node: Node<'_>, text: &str) -> Option<String> {
    let mut declarator = node.child_by_field_name("declarator")?;
    // Each `*` and each pair of parentheses is one more.
    for _ in 0..16 {
        match declarator.child_by_field_name("declarator") {
            Some(inner) => declarator = inner,
            None => break,
        }
    }
    Some(collapse(&text[declarator.byte_range()]))
}

/// Where a definition begins together with its decorators, attributes and the comment above it.
fn with_what_leads(node: Node<'_>) -> usize {
    let mut node = node;
    while let Some(parent) = node.parent().filter(|parent| {
        matches!(
            parent.kind(),
            "decorated_definition"
                | "export_statement"
                | "template_declaration"
                | "type_declaration"
                | "lexical_declaration"
                | "variable_declaration"
                | "type_definition"
        )
    }) {
        node = parent;
    }
    let mut first = node;
    while let Some(before) = first.prev_sibling() {
        let leads = before.kind().contains("comment") || before.kind() == "attribute_item";
        // Rust's line comments contain their line break, which puts their end at the start of the next line.
        let adjoins = first.start_position().row <= before.end_position().row + 1;
        let is_alone = before.prev_sibling().is_none_or(|other| {
            other.end_position().row < before.start_position().row
                || (other.end_position().row == before.start_position().row && other.end_position().column == 0)
        });
        if !(leads && adjoins && is_alone) {
            break;
        }
        first = before;
    }
    first.start_byte()
}

#[cfg(test)]
mod tests {
    use crate::read::testing::{headings, pieces, read_text};

    /// Names of definitions with their levels, in order.
    #[track_caller]
    fn check(name: &str, code: &str, expected: &[(u8, &str)]) {
        assert_eq!(headings(&read_text(name, code)), expected, "{name}");
    }

    #[test]
    fn definitions_are_found_in_every_language() {
        check(
            "a.rs",
            "impl Read for F {\n fn a() {}\n}\nmod m { struct S; }\n",
            &[(1, "Read for F"), (2, "a"), (1, "m"), (2, "S")],
        );
        check("a.py", "@d\nclass A:\n  def f(self):\n    pass\nasync def g(): pass\n", &[(1, "A"), (2, "f"), (1, "g")]);
        check(
            "a.js",
            "export class A { m() {} }\nconst f = () => 1;\nfunction g() {}\n",
            &[(1, "A"), (2, "m"), (1, "f"), (1, "g")],
        );
        check("a.ts", "interface I { x: number }\nenum E { A }\ntype T = string;\n", &[(1, "I"), (1, "E"), (1, "T")]);
        check("a.tsx", "export function View() { return <p>hi</p>; }\n", &[(1, "View")]);
        check(
            "a.go",
            "package p\ntype T struct { a int }\nfunc (t *T) M() {}\nfunc F() {}\n",
            &[(1, "T"), (1, "M"), (1, "F")],
        );
        check("a.c", "struct s { int a; };\nstatic int *f(int a) { return 0; }\n", &[(1, "s"), (1, "f")]);
        check(
            "a.cpp",
            "namespace n {\ntemplate <class T> class A { void m() {} };\nvoid A::g() {}\n}\n",
            &[(1, "n"), (2, "A"), (3, "m"), (2, "A::g")],
        );
        check(
            "a.java",
            "class A { A() {} int m() { return 1; } }\nrecord R(int a) {}\n",
            &[(1, "A"), (2, "A"), (2, "m"), (1, "R")],
        );
    }

    #[test]
    fn a_definition_comes_with_its_comment_and_leaves_its_scope() {
        let document = read_text("a.rs", "use x;\n\n/// Doc.\n#[inline]\nfn f() {}\n\nstatic A: u8 = 1;\n");
        assert_eq!(
            pieces(&document),
            [("Code", "use x;"), ("Definition", "/// Doc.\n#[inline]\nfn f() {}"), ("Code", "static A: u8 = 1;")]
        );
        let (inside, behind) = (document.text.find("{}").unwrap(), document.text.find("static").unwrap());
        let places = document.locate(&[inside, behind]);
        assert_eq!((places[0].headings.as_slice(), places[0].line), (&["f".to_owned()][..], Some(5)));
        assert!(places[1].headings.is_empty());
    }

    #[test]
    fn a_large_container_is_parted_at_its_members() {
        let body = "    let x = 1;\n".repeat(60);
        let code = format!("impl A {{\n  fn a() {{\n{body}  }}\n\n  fn b() {{\n{body}  }}\n}}\n");
        let document = read_text("a.rs", &code);
        let kinds: Vec<_> = pieces(&document).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, ["Code", "Definition", "Definition"]);
    }

    #[test]
    fn broken_and_deep_code_is_read() {
        for code in ["fn (((", &"{".repeat(20_000), &"fn f() {".repeat(2000)] {
            read_text("a.rs", code);
        }
    }
}
