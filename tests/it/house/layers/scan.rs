//! A small lexer for Rust sources: enough to find paths, macros and method calls, nothing more.

/// An identifier, a punctuation mark or a string literal (its text without quotes).
#[derive(Debug)]
pub struct Token {
    pub text: String,
    pub line: usize,
    /// A string literal.
    pub is_text: bool,
    /// Inside an item under `#[cfg(test)]` or `#[test]`.
    pub in_test: bool,
}

/// What a source file says, comments and literals told apart.
#[derive(Debug, Default)]
pub struct Scanned {
    pub tokens: Vec<Token>,
    /// Lines that carry a comment, with its text.
    comments: Vec<(usize, String)>,
    /// Every path, those of `use` declarations one by one.
    pub paths: Vec<NamedPath>,
    /// Modules in files of their own that exist only in tests, as paths below `src/` (`tower/testing`).
    pub test_modules: Vec<String>,
}

/// A path somewhere in a file.
#[derive(Debug)]
pub struct NamedPath {
    pub line: usize,
    /// A path into this crate starts with one element `crate::<module>`; any other starts with its root (a crate
    /// or a local name).
    pub path: Vec<String>,
    /// The module it stands in: that of the file, or an inline one.
    pub module: Vec<String>,
    /// The name that a `use` gives it here; none for a path in code and for a glob.
    pub name: Option<String>,
    /// Said by `pub use` or `pub(..) use`.
    pub exported: bool,
    /// Inside an item under `#[cfg(test)]` or `#[test]`.
    pub in_test: bool,
}

impl Scanned {
    /// A comment on `line` or on one of the `above` lines before it.
    pub fn has_comment_near(&self, line: usize, above: usize) -> bool {
        self.comments.iter().any(|(at, _)| *at <= line && at + above >= line)
    }

    /// `SAFETY:` or `# Safety` in the comment block above (or on) `line`.
    pub fn has_safety_near(&self, line: usize) -> bool {
        self.comments.iter().any(|(at, text)| {
            *at <= line && at + 6 >= line && (text.contains("SAFETY:") || text.contains("# Safety"))
        })
    }
}

/// Scans `source`; `file` (below `src/`) tells which module it is, which `super` needs.
pub fn scan(file: &str, source: &str) -> Scanned {
    let mut scanned = lex(source);
    mark_tests(&mut scanned.tokens);
    let module = module_of(file);
    scanned.paths = paths(&scanned.tokens, &module);
    for at in 0..scanned.tokens.len().saturating_sub(2) {
        let [word, name, end] = &scanned.tokens[at..at + 3] else { continue };
        if word.in_test && word.text == "mod" && end.text == ";" {
            scanned.test_modules.push(match path_attribute(&scanned.tokens[..at]) {
                // Relative to the folder of the file that says so.
                Some(path) => {
                    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
                    format!("{folder}/{}", path.trim_end_matches(".rs"))
                }
                None => [&module[..], std::slice::from_ref(&name.text)].concat().join("/"),
            });
        }
    }
    scanned
}

/// The file that a `#[path = "..."]` right before a `mod` names.
fn path_attribute(before: &[Token]) -> Option<&str> {
    // `pub`, `pub(crate)` and `pub(in a::b)` may stand between.
    let visible = before.iter().rposition(|token| token.text == "]")?;
    match &before[..=visible] {
        [.., open, path, equals, name, close]
            if (open.text.as_str(), path.text.as_str()) == ("[", "path")
                && (equals.text.as_str(), close.text.as_str()) == ("=", "]") =>
        {
            Some(&name.text)
        }
        _ => None,
    }
}

/// `index/build.rs` is `[index, build]`, `index/mod.rs` is `[index]`, `lib.rs` is `[]`.
pub fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<String> =
        file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

fn lex(source: &str) -> Scanned {
    let chars: Vec<char> = source.chars().collect();
    let mut scanned = Scanned::default();
    let (mut at, mut line) = (0, 1);
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let c = chars[at];
        let start_line = line;
        let mut push = |text: String, is_text: bool| {
            scanned.tokens.push(Token { text, line: start_line, is_text, in_test: false });
        };
        if c == '\n' {
            line += 1;
            at += 1;
        } else if c.is_whitespace() {
            at += 1;
        } else if c == '/' && peek(at + 1) == '/' {
            let start = at;
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
            scanned.comments.push((line, chars[start..at].iter().collect()));
        } else if c == '/' && peek(at + 1) == '*' {
            let mut depth = 0;
            let mut text = String::new();
            while at < chars.len() {
                match (chars[at], peek(at + 1)) {
                    ('/', '*') => (depth, at) = (depth + 1, at + 2),
                    ('*', '/') => (depth, at) = (depth - 1, at + 2),
                    ('\n', _) => {
                        scanned.comments.push((line, std::mem::take(&mut text)));
                        (line, at) = (line + 1, at + 1);
                    }
                    (other, _) => {
                        text.push(other);
                        at += 1;
                    }
                }
                if depth == 0 {
                    break;
                }
            }
            scanned.comments.push((line, text));
        } else if let Some((hashes, open)) = raw_string(&chars, at) {
            let close: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
            at = open;
            let start = at;
            while at < chars.len() && !chars[at..].starts_with(&close) {
                line += usize::from(chars[at] == '\n');
                at += 1;
            }
            push(chars[start..at].iter().collect(), true);
            at += close.len();
        } else if c == '"' || (matches!(c, 'b' | 'c') && peek(at + 1) == '"') {
            at += if c == '"' { 1 } else { 2 };
            let start = at;
            while at < chars.len() && chars[at] != '"' {
                line += usize::from(chars[at] == '\n');
                at += 1;
                if chars[at - 1] == '\\' {
                    line += usize::from(peek(at) == '\n');
                    at += 1;
                }
            }
            push(chars[start.min(chars.len())..at.min(chars.len())].iter().collect(), true);
            at += 1;
        } else if c == '\'' {
            at = after_quote(&chars, at);
        } else if c.is_alphanumeric() || c == '_' {
            let start = at;
            while peek(at).is_alphanumeric() || peek(at) == '_' {
                at += 1;
            }
            // `r#type` is the identifier `type`.
            if peek(at) == '#' && at == start + 1 && c == 'r' && peek(at + 1).is_alphabetic() {
                at += 1;
                continue;
            }
            push(chars[start..at].iter().collect(), false);
        } else if c == ':' && peek(at + 1) == ':' {
            push("::".to_owned(), false);
            at += 2;
        } else {
            push(c.to_string(), false);
            at += 1;
        }
    }
    scanned
}

/// At a raw string: how many hashes, and where its text starts.
fn raw_string(chars: &[char], at: usize) -> Option<(usize, usize)> {
    let mut at = at;
    if matches!(chars[at], 'b' | 'c') {
        at += 1;
    }
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let hashes = chars[at..].iter().take_while(|&&c| c == '#').count();
    (chars.get(at + hashes) == Some(&'"')).then_some((hashes, at + hashes + 1))
}

/// After a character literal or a lifetime that starts at `at`.
fn after_quote(chars: &[char], at: usize) -> usize {
    if chars.get(at + 1) == Some(&'\\') {
        let rest = &chars[(at + 3).min(chars.len())..];
        return at + 4 + rest.iter().position(|&c| c == '\'').unwrap_or(rest.len());
    }
    if chars.get(at + 2) == Some(&'\'') { at + 3 } else { at + 1 }
}

/// Marks the items that exist only in tests, attribute to closing brace or semicolon.
fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "#" && tokens.get(at + 1).is_some_and(|next| next.text == "[") {
            let end = closing(tokens, at + 1);
            let words: Vec<&str> =
                tokens[at + 2..end].iter().map(|token| token.text.as_str()).collect();
            let test = matches!(words[..], ["test"] | ["cfg", "(", "test", ")"])
                || words.starts_with(&["cfg", "(", "all", "(", "test"])
                || words.ends_with(&["::", "test"]);
            if test {
                let stop = end_of_item(tokens, end + 1);
                tokens[at..stop].iter_mut().for_each(|token| token.in_test = true);
                at = stop;
                continue;
            }
            at = end;
        }
        at += 1;
    }
}

/// The index after the item that starts at `at`: its `;` or its block's closing brace.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    let mut at = at;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            _ if tokens[at].is_text => {}
            ";" => return at + 1,
            "{" => return (closing(tokens, at) + 1).min(tokens.len()),
            "(" | "[" => at = closing(tokens, at),
            _ => {}
        }
        at += 1;
    }
    at
}

/// The index of the bracket that closes the one at `at` (or the end).
fn closing(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0usize;
    for (offset, token) in tokens[at..].iter().enumerate() {
        match token.text.as_str() {
            _ if token.is_text => {}
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + offset;
        }
    }
    tokens.len()
}

/// Every path, with `crate`, `self` and `super` resolved against the module it stands in.
fn paths(tokens: &[Token], file_module: &[String]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut module = file_module.to_vec();
    // Per open brace: whether it opened an inline module.
    let mut braces = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let text = tokens[at].text.as_str();
        let follows = |word: &str| tokens.get(at + 1).is_some_and(|next| next.text == word);
        match text {
            _ if tokens[at].is_text => {}
            "{" => {
                let inline = at >= 2 && tokens[at - 2].text == "mod";
                if inline {
                    module.push(tokens[at - 1].text.clone());
                }
                braces.push(inline);
            }
            "}" if braces.pop() == Some(true) => {
                module.pop();
            }
            "use" => {
                let end = end_of_use(tokens, at + 1);
                let mut leaves = Vec::new();
                use_tree(&tokens[at + 1..end], &[], &mut leaves);
                found.extend(leaves.into_iter().map(|(line, path, name)| NamedPath {
                    line,
                    path: resolve(&path, &module),
                    module: module.clone(),
                    name,
                    exported: is_exported(&tokens[..at]),
                    in_test: tokens[at].in_test,
                }));
                at = end;
                continue;
            }
            _ if follows("::") && is_name(text) && !continues_path(tokens, at) => {
                let Token { line, in_test, .. } = tokens[at];
                let mut path = vec![text.to_owned()];
                while tokens.get(at + 1).is_some_and(|next| next.text == "::")
                    && tokens.get(at + 2).is_some_and(|next| is_name(&next.text))
                {
                    path.push(tokens[at + 2].text.clone());
                    at += 2;
                }
                found.push(NamedPath {
                    line,
                    path: resolve(&path, &module),
                    module: module.clone(),
                    name: None,
                    exported: false,
                    in_test,
                });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Whether `before` ends in `pub` or `pub(..)`.
fn is_exported(before: &[Token]) -> bool {
    let end = match before.last() {
        Some(last) if last.text == ")" => before.iter().rposition(|token| token.text == "("),
        _ => Some(before.len()),
    };
    end.and_then(|end| before[..end].last()).is_some_and(|token| token.text == "pub")
}

/// A `use` ends at its `;`. (`use<..>` bounds have none before their `>`.)
fn end_of_use(tokens: &[Token], at: usize) -> usize {
    if tokens.get(at).is_some_and(|token| token.text == "<") {
        return at;
    }
    at + tokens[at..].iter().position(|token| token.text == ";").unwrap_or(tokens.len() - at)
}

/// Whether the name at `at` stands behind a `::` that belongs to a longer path (`a::b`, not `::b`).
fn continues_path(tokens: &[Token], at: usize) -> bool {
    at >= 2
        && tokens[at - 1].text == "::"
        && (is_name(&tokens[at - 2].text) || tokens[at - 2].text == ">")
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// A path of a `use` tree: its line, the path as written, and the name that it gives (a glob gives none).
type Leaf = (usize, Vec<String>, Option<String>);

/// Unfolds a `use` tree into its single paths.
fn use_tree(tokens: &[Token], prefix: &[String], found: &mut Vec<Leaf>) {
    let mut path = prefix.to_vec();
    let mut line = None;
    let mut alias = None;
    let mut glob = false;
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "{" => {
                let end = closing(tokens, at);
                let mut start = at + 1;
                let mut inner = start;
                while inner <= end {
                    let here = tokens.get(inner).map_or("", |token| token.text.as_str());
                    if here == "{" {
                        inner = closing(tokens, inner);
                    } else if here == "," || inner == end {
                        if start < inner {
                            use_tree(&tokens[start..inner], &path, found);
                        }
                        start = inner + 1;
                    }
                    inner += 1;
                }
                return;
            }
            "as" => {
                alias = tokens.get(at + 1).map(|name| name.text.clone());
                break;
            }
            name if is_name(name) => {
                line.get_or_insert(tokens[at].line);
                path.push(name.to_owned());
            }
            "*" => {
                line.get_or_insert(tokens[at].line);
                glob = true;
            }
            _ => {}
        }
        at += 1;
    }
    // `a::{self}` is `a`.
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if let Some(line) = line {
        let name = alias.or_else(|| path.last().cloned()).filter(|_| !glob);
        found.push((line, path, name));
    }
}

/// Puts `crate::<module>` first where a path leads into this crate.
fn resolve(path: &[String], module: &[String]) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = path;
    let mut inside = true;
    match path.first().map(String::as_str) {
        Some("crate" | "scalingnote") => {
            base.clear();
            rest = &path[1..];
        }
        Some("self") => rest = &path[1..],
        Some("super") => {
            while rest.first().is_some_and(|name| name == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => inside = false,
    }
    if !inside {
        return path.to_vec();
    }
    base.extend(rest.iter().cloned());
    if let Some(first) = base.first_mut() {
        *first = format!("crate::{first}");
    }
    base
}
