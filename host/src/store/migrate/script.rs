//! One migration's text as statements, each with its line.
//!
//! The statements are cut and run one by one: PostgreSQL prepares each, and takes no second statement in the same text. So what runs is what
//! was checked, also where the two parsers read a text differently.

use anyhow::Context;
use sqlparser::ast::Statement as Tree;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};
use std::collections::BTreeMap;

/// Characters of a statement that a problem shows.
const SHOWN: usize = 100;
/// More than that in one statement would cost the parser its stack.
const LONGEST: usize = 1024 * 1024;

/// One statement of a migration.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    /// Its first line in the file, from 1.
    pub(super) line: usize,
    /// Its text; placeholders stand in double quotes.
    pub(super) text: String,
    /// Its first words in capitals, up to four.
    pub(super) words: Vec<String>,
    /// Its parse tree, or why there is none.
    pub(super) tree: Result<Tree, String>,
    /// Whether it drops an index concurrently, which the tree cannot say.
    pub(super) drops_concurrently: bool,
}

impl Statement {
    /// The statement on one line, cut where it is long.
    pub(super) fn shown(&self) -> String {
        let line = self.text.split_whitespace().collect::<Vec<_>>().join(" ").replace("\"{{", "{{").replace("}}\"", "}}");
        match line.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{}…", &line[..at]),
            None => line,
        }
    }

    /// Whether it has to run alone, outside a transaction.
    pub(super) fn is_concurrent(&self) -> bool {
        self.drops_concurrently || matches!(&self.tree, Ok(Tree::CreateIndex(index)) if index.concurrently)
    }

    /// What PostgreSQL gets: placeholders are what they stand for.
    pub(super) fn expanded(&self, names: &BTreeMap<String, String>) -> anyhow::Result<String> {
        expand(&self.text, names)
    }
}

/// Cuts a migration's text. The error says where the text itself cannot be read: an open string, for instance.
pub(super) fn statements(text: &str) -> Result<Vec<Statement>, String> {
    let text = stand_ins(text);
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, &text).tokenize_with_location().map_err(|error| error.to_string())?;
    let pieces = tokens.split(|token| token.token == Token::SemiColon);
    Ok(pieces.filter_map(|piece| statement(&text, piece)).collect())
}

fn statement(text: &str, tokens: &[TokenWithSpan]) -> Option<Statement> {
    let is_gap = |token: &&TokenWithSpan| matches!(token.token, Token::Whitespace(_) | Token::EOF);
    let first = tokens.iter().find(|token| !is_gap(token))?.span.start;
    let last = tokens.iter().rev().find(|token| !is_gap(token))?.span.end;
    let text = text.get(offset(text, first)..offset(text, last))?.to_owned();
    let words = tokens.iter().filter(|token| !is_gap(token)).map_while(|token| match &token.token {
        Token::Word(Word { value, quote_style: None, .. }) => Some(value.to_uppercase()),
        _ => None,
    });
    let words: Vec<String> = words.take(4).collect();
    let drops_concurrently = words.iter().map(String::as_str).take(3).eq(["DROP", "INDEX", "CONCURRENTLY"]);
    let tree = match text.len() {
        ..=LONGEST => parse(tokens, drops_concurrently),
        _ => Err(format!("it is longer than {LONGEST} bytes")),
    };
    Some(Statement { line: usize::try_from(first.line).unwrap_or(1), text, words, tree, drops_concurrently })
}

fn parse(tokens: &[TokenWithSpan], drops_concurrently: bool) -> Result<Tree, String> {
    // The parser does not know DROP INDEX CONCURRENTLY; without the word it is the same statement.
    let mut left_out = drops_concurrently.then_some("CONCURRENTLY");
    let keep = |token: &&TokenWithSpan| match (&token.token, left_out) {
        (Token::Word(word), Some(name)) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(name) => {
            left_out = None;
            false
        }
        _ => true,
    };
    let tokens = tokens.iter().filter(keep).cloned().collect();
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_tokens_with_locations(tokens);
    let said = |error: sqlparser::parser::ParserError| error.to_string().trim_start_matches("sql parser error: ").to_owned();
    let tree = parser.parse_statement().map_err(said)?;
    match parser.peek_token() {
        TokenWithSpan { token: Token::EOF, .. } => Ok(tree),
        more => Err(format!("Expected: end of statement, found: {} at {}", more.token, place(more.span.start))),
    }
}

fn place(at: Location) -> String {
    format!("Line: {}, Column: {}", at.line, at.column)
}

/// Where a place of the tokenizer (line and character, from 1) is in the text.
fn offset(text: &str, at: Location) -> usize {
    let (line, column) = (usize::try_from(at.line).unwrap_or(1), usize::try_from(at.column).unwrap_or(1));
    let start = match line {
        ..=1 => 0,
        _ => text.match_indices('\n').nth(line - 2).map_or(text.len(), |(at, _)| at + 1),
    };
    text[start..].char_indices().nth(column.saturating_sub(1)).map_or(text.len(), |(at, _)| start + at)
}

/// `{{role:orders}}` as a quoted name, which parsers read. All other braces are the text's own: `'{"a":{"b":1}}'`, `'{{1,2},{3,4}}'`.
fn stand_ins(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        rest = match placeholder(after) {
            Some((name, tail)) => {
                out.push_str(&format!("\"{{{{{name}}}}}\""));
                tail
            }
            None => {
                out.push_str("{{");
                after
            }
        };
    }
    out.push_str(rest);
    out
}

/// The name at the beginning of what follows `{{`, if it is one, and what follows its `}}`.
fn placeholder(after: &str) -> Option<(&str, &str)> {
    let (name, tail) = after.split_once("}}")?;
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-:".contains(&byte));
    (plain && name.contains(':')).then_some((name, tail))
}

/// Replaces `"{{name}}"` by what it stands for, a name in quotes.
fn expand(text: &str, names: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\"{{") {
        out.push_str(before);
        let found = placeholder(after).and_then(|(name, tail)| Some((name, tail.strip_prefix('"')?)));
        let Some((name, tail)) = found else {
            out.push_str("\"{{");
            rest = after;
            continue;
        };
        out.push_str(names.get(name).with_context(|| {
            let known: Vec<_> = names.keys().map(|k| format!("{{{{{k}}}}}")).collect();
            format!("`{{{{{name}}}}}` stands for nothing here; known are {}", known.join(", "))
        })?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_expand_and_unknown_ones_are_named() {
        let names = BTreeMap::from([("role:orders".to_owned(), "\"x_h_orders\"".to_owned())]);
        let expanded = |text: &str| statements(text).unwrap()[0].expanded(&names);
        assert_eq!(expanded("GRANT SELECT ON o TO {{role:orders}};").unwrap(), "GRANT SELECT ON o TO \"x_h_orders\"");
        let error = expanded("GRANT SELECT ON o TO {{role:order}};").unwrap_err().to_string();
        assert!(error.contains("{{role:order}}") && error.contains("{{role:orders}}"), "{error}");
    }

    #[test]
    fn braces_that_are_no_placeholder_stay_as_they_are() {
        let names = BTreeMap::from([("role:orders".to_owned(), "\"x_h_orders\"".to_owned())]);
        for text in [
            r#"INSERT INTO o (doc) VALUES ('{"a":{"b":{"c":1}}}')"#,
            "INSERT INTO o (grid) VALUES ('{{1,2},{3,4}}'), ('{{a}}')",
            r#"INSERT INTO o (doc) VALUES ('{"{{x}}":"}}"}')"#,
        ] {
            assert_eq!(statements(text).unwrap()[0].expanded(&names).unwrap(), text);
        }
        let both = "CREATE POLICY p ON o TO {{role:orders}} USING (grid <> '{{1}}')";
        assert_eq!(statements(both).unwrap()[0].expanded(&names).unwrap(), both.replace("{{role:orders}}", "\"x_h_orders\""));
    }

    #[test]
    fn statements_are_cut_where_they_end_and_know_their_line() {
        let text = "-- é; not here\nCREATE TABLE a (t text DEFAULT 'x;y'); /* nor; here */\n\n  INSERT INTO a\n VALUES ($$ü;$$);\n\
                    COMMENT ON TABLE a IS 'it''s; one' -- the end;\n;;";
        let cut: Vec<_> = statements(text).unwrap().into_iter().map(|one| (one.line, one.text)).collect();
        assert_eq!(
            cut,
            [
                (2, "CREATE TABLE a (t text DEFAULT 'x;y')".to_owned()),
                (4, "INSERT INTO a\n VALUES ($$ü;$$)".to_owned()),
                (6, "COMMENT ON TABLE a IS 'it''s; one'".to_owned()),
            ]
        );
        assert!(statements("SELECT 'open").unwrap_err().contains("Unterminated"));
    }

    #[test]
    fn an_index_is_dropped_concurrently_though_the_parser_does_not_know_it() {
        let one = statements("drop index concurrently if exists concurrently").unwrap().remove(0);
        assert!(one.drops_concurrently && one.is_concurrent());
        assert_eq!(one.tree.unwrap().to_string(), "DROP INDEX IF EXISTS concurrently");
    }
}
