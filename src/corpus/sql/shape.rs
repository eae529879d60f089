//! How deep and how long a text of SQL is, from its tokens alone: an upper bound, in one pass and without recursion.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

/// What SQL may look like.
#[derive(Debug, Clone, Copy)]
pub(in crate::corpus) struct Limits {
    /// Bytes of the text.
    pub(in crate::corpus) bytes: usize,
    /// Brackets, or `CASE`s, in each other.
    pub(in crate::corpus) nested: usize,
    /// Operators that follow each other, also from inside of brackets to outside: `a + b * (c + d)` has three. Arithmetic,
    /// whose planning takes the square of that, counts twice.
    pub(in crate::corpus) chain: usize,
    /// Members of lists and arguments of functions, in all.
    pub(in crate::corpus) members: usize,
    /// Queries.
    pub(in crate::corpus) queries: usize,
}

impl Limits {
    /// Of a condition, which anybody may send.
    pub(in crate::corpus) const CONDITION: Self =
        Self { bytes: 16 << 10, nested: 32, chain: 520, members: 512, queries: 0 };
    /// Of a query in a file, whose owner may do what they like but overflow the stack.
    pub(in crate::corpus) const QUERY: Self =
        Self { bytes: 1 << 20, nested: 64, chain: 1_040, members: 100_000, queries: 256 };

    /// Levels that the parser may take for brackets, operators in front of an operand, and queries.
    pub(super) fn levels(&self) -> usize {
        3 * self.nested + 8
    }

    /// What is wrong with the length of a text.
    pub(super) fn check_length(&self, text: &str) -> Result<(), String> {
        match text.len() > self.bytes {
            true => Err(format!("has {} bytes; at most {} are read", text.len(), self.bytes)),
            false => Ok(()),
        }
    }

    /// What is too much about its tokens, and the way out.
    pub(super) fn check(&self, tokens: &[TokenWithSpan]) -> Result<(), String> {
        let mut shape = Shape { levels: vec![Level::default()], ..Shape::default() };
        let mut tokens = tokens.iter().map(|token| &token.token).filter(|token| counts(token));
        let mut next = tokens.next();
        while let Some(token) = next {
            next = tokens.next();
            shape.read(token, next);
            let chain: usize = shape.levels.iter().map(Level::so_far).sum();
            self.judge(&shape, chain)?;
        }
        let chain = shape.levels.iter().map(Level::chain).sum();
        self.judge(&shape, chain)
    }

    fn judge(&self, shape: &Shape, chain: usize) -> Result<(), String> {
        if shape.levels.len() - 1 > self.nested {
            return Err(self.too_deep());
        }
        if shape.queries > self.queries {
            return Err(match self.queries {
                0 => "has no subqueries: it looks at the columns of one note".to_owned(),
                most => format!("has more than {most} queries; split it into files or tables"),
            });
        }
        if shape.members > self.members {
            return Err(format!(
                "lists more than {} members and arguments; ask for fewer at once, or keep them in a column or a table",
                self.members
            ));
        }
        if chain > self.chain {
            return Err(format!(
                "chains too many operators: at most {} comparisons joined by AND or OR, or {} additions, may follow each other; \
                 write `x IN (1, 2)` for many comparisons of one value",
                self.chain / 2,
                self.chain / 2
            ));
        }
        Ok(())
    }

    /// The words for nesting beyond the limit, which the parser may find, too.
    pub(super) fn too_deep(&self) -> String {
        format!(
            "is nested too deeply: at most {} brackets, CASEs, or signs in front of a value may be inside each other",
            self.nested
        )
    }
}

/// What is open at a place of the text.
#[derive(Debug, Default)]
struct Level {
    /// `CASE` opened it, not a bracket.
    case: bool,
    /// It is between FROM and what ends that: tables with commas between them are joined, one onto the other.
    tables: bool,
    /// Operators since the last comma.
    operators: usize,
    /// The longest chain of a closed bracket since the last comma.
    inner: usize,
    /// The longest chain before the last comma.
    before: usize,
}

impl Level {
    /// The longest chain that ends at its end.
    fn chain(&self) -> usize {
        self.before.max(self.so_far())
    }

    /// The chain that goes on.
    fn so_far(&self) -> usize {
        self.operators + self.inner
    }

    fn next_member(&mut self) {
        self.before = self.chain();
        (self.operators, self.inner) = (0, 0);
    }
}

#[derive(Debug, Default)]
struct Shape {
    /// Never empty.
    levels: Vec<Level>,
    members: usize,
    queries: usize,
    /// A value, or a word that may be one, ends here.
    operand: bool,
}

/// What a symbol is counted as.
const PLAIN: usize = 1;
const ARITHMETIC: usize = 2;

impl Shape {
    fn read(&mut self, token: &Token, next: Option<&Token>) {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                if self.operand && *token == Token::LBracket {
                    self.operator(ARITHMETIC);
                }
                self.open(false);
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                while self.levels.last().is_some_and(|level| level.case) {
                    self.close();
                }
                self.close();
            }
            Token::Comma | Token::SemiColon => {
                self.members += 1;
                match self.levels.last_mut() {
                    Some(level) if level.tables => level.operators += PLAIN,
                    Some(level) => level.next_member(),
                    None => {}
                }
                self.operand = false;
            }
            Token::Word(word) if word.quote_style.is_none() => self.word(word),
            Token::Eq
            | Token::DoubleEq
            | Token::Neq
            | Token::Lt
            | Token::Gt
            | Token::LtEq
            | Token::GtEq
            | Token::Spaceship
            | Token::Period => self.operator(PLAIN),
            // The sign of a number.
            Token::Plus | Token::Minus
                if !self.operand && matches!(next, Some(Token::Number(..))) => {}
            token if is_value(token) => self.value(),
            _ => self.operator(ARITHMETIC),
        }
    }

    fn word(&mut self, word: &Word) {
        let in_case = self.levels.last().is_some_and(|level| level.case);
        match word.keyword {
            Keyword::AND | Keyword::OR | Keyword::NOT => self.operator(PLAIN),
            Keyword::CASE => self.open(true),
            Keyword::END if in_case => self.close(),
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE if in_case => {
                if let Some(level) = self.levels.last_mut() {
                    level.next_member();
                }
                self.operand = false;
            }
            keyword => {
                self.value();
                if let Some(level) = self.levels.last_mut() {
                    match keyword {
                        Keyword::FROM => level.tables = true,
                        Keyword::SELECT
                        | Keyword::WHERE
                        | Keyword::GROUP
                        | Keyword::HAVING
                        | Keyword::ORDER
                        | Keyword::WINDOW => level.tables = false,
                        _ => {}
                    }
                }
                // A query may begin with its FROM.
                let begins = self.levels.last().is_some_and(|level| level.so_far() == 0);
                let is_query = keyword == Keyword::SELECT || keyword == Keyword::FROM && begins;
                self.queries += usize::from(is_query);
                // What follows these is not an alias.
                self.operand &= !matches!(keyword, Keyword::SELECT | Keyword::FROM);
            }
        }
    }

    /// Of two words beside each other the second is an operator, or as good as one.
    fn value(&mut self) {
        match self.operand {
            true => self.operator(PLAIN),
            false => self.operand = true,
        }
    }

    fn operator(&mut self, weight: usize) {
        if let Some(level) = self.levels.last_mut() {
            level.operators += weight;
        }
        self.operand = false;
    }

    fn open(&mut self, case: bool) {
        self.levels.push(Level { case, ..Level::default() });
        self.operand = false;
    }

    /// A bracket that closes nothing is for the parser to complain about.
    fn close(&mut self) {
        if self.levels.len() > 1
            && let Some(closed) = self.levels.pop()
            && let Some(level) = self.levels.last_mut()
        {
            level.inner = level.inner.max(closed.chain() + 1);
        }
        self.operand = true;
    }
}

fn counts(token: &Token) -> bool {
    !matches!(token, Token::Whitespace(_) | Token::EOF)
}

fn is_value(token: &Token) -> bool {
    matches!(
        token,
        Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Placeholder(_)
    )
}
