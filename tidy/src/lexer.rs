//! A lexer for Rust that knows just enough to tell code from comments and strings.

/// A source text in two layers of the same shape: every line of each is as long, in characters, as the
/// source's own, with spaces where the other layer has the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layers {
    /// Code. Strings and characters are reduced to their quotes.
    pub code: Vec<String>,
    /// Comments, with their slashes.
    pub comments: Vec<String>,
}

/// Separates code from comments and the insides of strings.
pub fn layers(text: &str) -> Layers {
    let mut lexer =
        Lexer { rest: text.chars().collect(), at: 0, code: String::new(), comments: String::new() };
    lexer.run();
    let lines = |text: &str| text.split('\n').map(str::to_owned).collect();
    Layers { code: lines(&lexer.code), comments: lines(&lexer.comments) }
}

#[derive(Clone, Copy)]
enum Layer {
    Code,
    Comment,
    Neither,
}

struct Lexer {
    rest: Vec<char>,
    at: usize,
    code: String,
    comments: String,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    /// Moves `count` characters to a layer.
    fn put(&mut self, count: usize, layer: Layer) {
        for _ in 0..count {
            let Some(found) = self.peek(0) else { return };
            self.at += 1;
            let blank = if found == '\n' { '\n' } else { ' ' };
            let (code, comment) = match layer {
                Layer::Code => (found, blank),
                Layer::Comment => (blank, found),
                Layer::Neither => (blank, blank),
            };
            self.code.push(code);
            self.comments.push(comment);
        }
    }

    fn run(&mut self) {
        while let Some(found) = self.peek(0) {
            match (found, self.peek(1)) {
                ('/', Some('/')) => self.line_comment(),
                ('/', Some('*')) => self.block_comment(),
                ('"', _) => self.string(),
                ('\'', _) => self.quote(),
                _ if found.is_alphanumeric() || found == '_' => self.word(),
                _ => self.put(1, Layer::Code),
            }
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|found| found != '\n') {
            self.put(1, Layer::Comment);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.put(2, Layer::Comment);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.put(2, Layer::Comment);
                    if depth == 0 {
                        return;
                    }
                }
                (Some(_), _) => self.put(1, Layer::Comment),
                (None, _) => return,
            }
        }
    }

    /// From the opening quote; a backslash takes the next character with it.
    fn string(&mut self) {
        self.put(1, Layer::Code);
        while let Some(found) = self.peek(0) {
            match found {
                '"' => return self.put(1, Layer::Code),
                '\\' => self.put(2, Layer::Neither),
                _ => self.put(1, Layer::Neither),
            }
        }
    }

    /// A character or the name of a lifetime.
    fn quote(&mut self) {
        match (self.peek(1), self.peek(2)) {
            (Some('\\'), _) => {
                self.put(1, Layer::Code);
                self.put(2, Layer::Neither);
                while self.peek(0).is_some_and(|found| found != '\'') {
                    self.put(1, Layer::Neither);
                }
                self.put(1, Layer::Code);
            }
            (Some(_), Some('\'')) => {
                self.put(1, Layer::Code);
                self.put(1, Layer::Neither);
                self.put(1, Layer::Code);
            }
            _ => self.put(1, Layer::Code),
        }
    }

    /// A name or a number; or the prefix of a string.
    fn word(&mut self) {
        let from = self.at;
        while self.peek(0).is_some_and(|found| found.is_alphanumeric() || found == '_') {
            self.put(1, Layer::Code);
        }
        let word: String = self.rest[from..self.at].iter().collect();
        match (word.as_str(), self.peek(0)) {
            ("r" | "br" | "cr", Some('"' | '#')) => self.raw_string(),
            ("b" | "c", Some('"')) => self.string(),
            ("b", Some('\'')) => self.quote(),
            _ => {}
        }
    }

    /// From the hashes, if any. Does nothing for the name `r#name`.
    fn raw_string(&mut self) {
        let hashes = self.rest[self.at..].iter().take_while(|&&found| found == '#').count();
        if self.peek(hashes) != Some('"') {
            return;
        }
        self.put(hashes + 1, Layer::Code);
        while let Some(found) = self.peek(0) {
            if found == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                return self.put(hashes + 1, Layer::Code);
            }
            self.put(1, Layer::Neither);
        }
    }
}

/// A name or a run of other characters of code, with its line from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    /// Its line, from 1.
    pub line: usize,
    /// A name or number, `::`, or one other character.
    pub text: &'a str,
}

/// The tokens of code without comments and strings.
pub fn tokens(code: &[String]) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(code) {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_name = |found: char| found.is_alphanumeric() || found == '_';
            let end = if is_name(first) {
                rest.find(|found| !is_name(found)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { line, text: &rest[..end] });
            rest = rest[end..].trim_start();
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of a text, without the spaces that stand for the rest.
    fn code(text: &str) -> String {
        layers(text).code.join("\n").split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_of_every_kind_are_not_code() {
        assert_eq!(code("a // unsafe\nb"), "a \nb");
        assert_eq!(code("a /* unsafe /* nested */ still */ b"), "a b");
        assert_eq!(code("/// doc `unsafe`\n//! more\nfn"), "\n \nfn");
        assert_eq!(code("a / b /* open"), "a / b");
    }

    #[test]
    fn strings_of_every_kind_are_reduced_to_their_quotes() {
        assert_eq!(code(r#"f("unsafe // no comment", 1)"#), r#"f(" ", 1)"#);
        assert_eq!(code(r#""a \" unsafe" x"#), r#"" " x"#);
        assert_eq!(code(r#""ends with \\" unsafe"#), r#"" " unsafe"#);
        assert_eq!(code("r\"\\\" unsafe"), "r\" \" unsafe");
        assert_eq!(code("br##\"a \"# unsafe\"## x"), "br##\" \"## x");
        assert_eq!(code("b\"unsafe\" c\"unsafe\""), "b\" \" c\" \"");
        assert_eq!(code("\"two\nunsafe\nlines\" x"), "\" \n \n \" x");
    }

    #[test]
    fn characters_are_not_lifetimes() {
        assert_eq!(code("'\"' unsafe '\"'"), "' ' unsafe ' '");
        assert_eq!(code(r"'\'' unsafe '\\' '\u{1F600}' x"), "' ' unsafe ' ' ' ' x");
        assert_eq!(code("b'\"' unsafe"), "b' ' unsafe");
        assert_eq!(
            code("fn f<'a>(x: &'a str) -> &'static str { \"x\" }"),
            "fn f<'a>(x: &'a str) -> &'static str { \" \" }"
        );
    }

    #[test]
    fn raw_names_and_names_that_end_like_a_prefix_are_names() {
        assert_eq!(code("r#type x"), "r#type x");
        assert_eq!(code("for\"unsafe\""), "for\" \"");
        assert_eq!(code("bar#\"unsafe\"#"), "bar#\" \"#");
    }

    #[test]
    fn both_layers_keep_lines_and_columns() {
        let text = "let x = \"s\"; // SAFETY: é\n/* a\nb */ y";
        let layers = layers(text);
        for layer in [&layers.code, &layers.comments] {
            let lengths: Vec<_> = layer.iter().map(|line| line.chars().count()).collect();
            assert_eq!(lengths, text.split('\n').map(|line| line.chars().count()).collect::<Vec<_>>());
        }
        assert_eq!(layers.comments[0].trim(), "// SAFETY: é");
        assert_eq!(layers.code[2].trim(), "y");
    }

    #[test]
    fn tokens_know_their_line() {
        let code = layers("a::b(1)\n !x").code;
        let tokens = tokens(&code);
        let texts: Vec<_> = tokens.iter().map(|token| (token.line, token.text)).collect();
        assert_eq!(texts, [(1, "a"), (1, "::"), (1, "b"), (1, "("), (1, "1"), (1, ")"), (2, "!"), (2, "x")]);
    }
}
