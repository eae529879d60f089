//! Which fields which bytes give, with csv-core as the other opinion.

use proptest::prelude::*;

use super::*;

type Records = Vec<Vec<Vec<u8>>>;

const CSV: Dialect = Dialect {
    delimiter: b',',
    quote: Some(b'"'),
    escape: None,
    comment: None,
    letters: false,
    open: false,
    longest: 1 << 30,
    most: u64::MAX,
};

/// Records with the lines that they begin in.
fn parse(
    text: &[u8],
    dialect: Dialect,
    strict: bool,
    buffer: usize,
) -> Result<(Vec<u64>, Records), Fault> {
    let mut tokens = Tokens::with_buffer(text, dialect, strict, buffer);
    let (mut lines, mut records) = (Vec::new(), Vec::new());
    while let Some(record) = tokens.next()? {
        lines.push(record.line);
        records.push((0..record.len).map(|at| record.text(at).to_vec()).collect());
    }
    Ok((lines, records))
}

fn strings(text: &str, dialect: Dialect) -> Vec<Vec<String>> {
    let (_, records) = parse(text.as_bytes(), dialect, true, BUFFER).unwrap();
    let string = |field| String::from_utf8(field).unwrap();
    records.into_iter().map(|record| record.into_iter().map(string).collect()).collect()
}

fn csv_core(text: &[u8], dialect: Dialect) -> Records {
    let mut reader = csv_core::ReaderBuilder::new()
        .delimiter(dialect.delimiter)
        .quoting(dialect.quote.is_some())
        .quote(dialect.quote.unwrap_or(b'"'))
        .escape(dialect.escape)
        .comment(dialect.comment)
        .build();
    let (mut input, mut records) = (text, Vec::new());
    loop {
        // More than a record can need, so that each is read in one piece or ends the input.
        let (mut out, mut ends) = (vec![0; text.len() + 1], vec![0; text.len() + 2]);
        let (mut written, mut fields) = (0, 0);
        loop {
            let (result, read, wrote, ended) =
                reader.read_record(input, &mut out[written..], &mut ends[fields..]);
            input = &input[read..];
            written += wrote;
            fields += ended;
            match result {
                csv_core::ReadRecordResult::Record => break,
                csv_core::ReadRecordResult::End => return records,
                csv_core::ReadRecordResult::InputEmpty => {}
                other => panic!("{other:?}"),
            }
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let fields = starts.zip(&ends[..fields]).map(|(start, end)| out[start..*end].to_vec());
        records.push(fields.collect());
    }
}

#[test]
fn fields_are_what_their_writer_meant() {
    let quotes = Dialect { quote: None, ..CSV };
    let escape = Dialect { escape: Some(b'\\'), ..CSV };
    let database = Dialect { delimiter: b'\t', letters: true, ..escape }.without_quotes();
    let comment = Dialect { comment: Some(b'#'), ..CSV };
    let cases: [(Dialect, &str, &[&[&str]]); 18] = [
        (CSV, "a,b\r\nc,d\re,f\n", &[&["a", "b"], &["c", "d"], &["e", "f"]]),
        (CSV, "\n\r\n a ,\n\n,\n\"\"\n", &[&[" a ", ""], &["", ""], &[""]]),
        (CSV, "\"a \"\"b\"\"\",\"c,d\ne\"", &[&["a \"b\"", "c,d\ne"]]),
        (CSV, "6\" pipe,a\"\"b\n", &[&["6\" pipe", "a\"\"b"]]),
        (CSV, "C:\\new,\"D:\\\"\n", &[&["C:\\new", "D:\\"]]),
        (quotes, "\"a,b\"\n\"\n", &[&["\"a", "b\""], &["\""]]),
        (Dialect { quote: Some(b'\''), ..CSV }, "'it''s, \"so\"'\n", &[&["it's, \"so\""]]),
        (escape, "\"He said \\\"stop\\\" twice\",\\\"\n", &[&["He said \"stop\" twice", "\""]]),
        (escape, "\"C:\\\\new\",\"C:\\new\",it\\'s\n", &[&["C:\\new", "C:\\new", "it's"]]),
        (escape, "a\\,b,c\\\nd\\\r\ne\n", &[&["a,b", "c\nd\r\ne"]]),
        (escape, "\"a\\\nb\"\"c\"\na\\", &[&["a\nb\"c"], &["a\\"]]),
        (database, "a\\tb\\\\n\\nc\t\\N\td\\\te\n", &[&["a\tb\\n\nc", "\\N", "d\te"]]),
        (database, "\"a\t\\\"b\\\"\\q\n", &[&["\"a", "\"b\"\\q"]]),
        (database, "a\r\\\nb\tc\rd\r\n", &[&["a\r\nb", "c"], &["d"]]),
        (comment, "#x,\"\n#\r\na,#b\n # c\n#", &[&["a", "#b"], &[" # c"]]),
        (comment, "#\ra\r", &[&["a"]]),
        (CSV, "", &[]),
        (CSV, "\r\r\n", &[]),
    ];
    for (dialect, text, expected) in cases {
        assert_eq!(strings(text, dialect), expected, "{text:?}");
        for buffer in 1..9 {
            let small = parse(text.as_bytes(), dialect, true, buffer).unwrap();
            assert_eq!(small, parse(text.as_bytes(), dialect, true, BUFFER).unwrap(), "{text:?}");
        }
    }
}

#[test]
fn quotes_in_wrong_places_are_told_with_their_lines() {
    let escape = Dialect { escape: Some(b'\\'), ..CSV };
    let cases = [
        (CSV, "a\nb,\"c\nd\n", true, "line 2: the quoted field that opens here"),
        (CSV, "a\nb,\"c\nd\n", false, "line 2: the quoted field that opens here"),
        (CSV, "\"a\n\",\"b\r\n", true, "line 2: the quoted field"),
        (CSV, "\r\r\n\"", true, "line 3: the quoted field"),
        (CSV, "a\n\"b\" c\n", true, "line 2: text follows"),
        (CSV, "\"b\"\"\" c\n", true, "line 1: text follows"),
        (
            CSV,
            "a\n\"b\nc\" d\n",
            false,
            "line 3: text follows the closing quote of the field that opens in line 2",
        ),
        (escape, "\"b\\\"\n", true, "line 1: the quoted field"),
        (escape, "\"b\\", true, "line 1: the quoted field"),
        (escape, "\"b\\\\\"c", true, "line 1: text follows"),
    ];
    for (dialect, text, strict, said) in cases {
        for buffer in [1, 2, 3, 4, 5, BUFFER] {
            let fault = parse(text.as_bytes(), dialect, strict, buffer).unwrap_err();
            assert!(fault.is_of_quotes());
            let error = Error::from(fault).to_string();
            assert!(
                error.contains(said) && error.contains("quote = \"none\""),
                "{text:?}: {error}"
            );
        }
    }
    // As 0.1.0 read it.
    let lenient = parse(b"\"a\" \"b\"\"c,\"\"d\n", CSV, false, BUFFER).unwrap();
    assert_eq!(lenient.1, [[b"a \"b\"\"c".to_vec(), b"d".to_vec()]]);
}

#[test]
fn a_record_knows_its_line_and_what_is_written() {
    let text = "skipped \"\r\n\r#c\r\na,\"b\n\r\nc\"\n\n\\N,\"\\N\",x\\\n,\n";
    let dialect = Dialect { escape: Some(b'\\'), comment: Some(b'#'), ..CSV };
    for buffer in [1, 2, 3, 7, BUFFER] {
        let mut tokens = Tokens::with_buffer(text.as_bytes(), dialect, true, buffer);
        tokens.skip_lines(1).unwrap();
        let first = tokens.next().unwrap().unwrap();
        assert_eq!((first.line, first.len, first.has_quotes()), (4, 2, true));
        assert_eq!(first.bytes, b"a,\"b\n\r\nc\"");
        let second = tokens.next().unwrap().unwrap();
        assert_eq!((second.line, second.len), (8, 4));
        let null = |at| second.is_null(at, Some(b"\\N"));
        assert!(null(0) && null(1) && !null(2) && !null(3));
        assert!(second.is_null(3, None) && !second.is_null(0, None));
        assert_eq!(second.text(2), b"x\n");
        assert!(tokens.next().unwrap().is_none());
    }
    let mut few = Tokens::new(&b"a\nb\n"[..], CSV, true);
    few.skip_lines(3).unwrap();
    assert!(few.next().unwrap().is_none() && !few.is_empty());
    assert!(Tokens::new(&b""[..], CSV, true).is_empty());
    let mut wide = Tokens::new(&b"a,b,c\n"[..], CSV, true);
    wide.keep(2);
    let record = wide.next().unwrap().unwrap();
    assert_eq!((record.len, record.text(1), record.text(2)), (3, &b"b"[..], &b""[..]));
}

#[test]
fn rows_that_a_quote_swallowed_are_seen() {
    let tsv = Dialect { delimiter: b'\t', ..CSV };
    let one_row = |text: &str| {
        let mut tokens = Tokens::new(text.as_bytes(), tsv, true);
        tokens.next().unwrap().unwrap().is_one_row(b'\t').is_ok()
    };
    assert!(!one_row("1\t\"open\n2\tno\r\n3\tclosed\"\n"));
    assert!(one_row("1\t\"a\n\nparagraph\"\n"));
    assert!(one_row("1\t\"no line break\"\n2\tx\n"));
    assert!(one_row("\"one\ncolumn\"\n"));
}

/// Files of a small alphabet, in which everything that means something is frequent.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(b"ab \"\"\",,;\t\n\n\r\\#'\xc3\xa9".to_vec());
    prop::collection::vec(byte, 0..60)
}

fn any_dialect() -> impl Strategy<Value = Dialect> {
    let (delimiters, quotes) = (vec![b',', b';', b'\t'], vec![Some(b'"'), Some(b'\''), None]);
    let options = (prop::sample::select(delimiters), prop::sample::select(quotes));
    (options, any::<bool>(), any::<bool>()).prop_map(|((delimiter, quote), escape, comment)| {
        Dialect {
            delimiter,
            quote,
            escape: escape.then_some(b'\\'),
            comment: comment.then_some(b'#'),
            ..CSV
        }
    })
}

/// A field as a writer of the dialect puts it down.
fn written(field: &[u8], dialect: Dialect, doubled: bool, always: bool) -> Vec<u8> {
    let means = |byte: &u8| {
        [Some(dialect.delimiter), dialect.quote, dialect.escape, dialect.comment]
            .contains(&Some(*byte))
            || matches!(byte, b'\n' | b'\r')
    };
    let Some(quote) = dialect.quote else {
        return match dialect.escape {
            Some(escape) => field
                .iter()
                .flat_map(|b| means(b).then_some(escape).into_iter().chain([*b]))
                .collect(),
            None => field.iter().copied().filter(|byte| !means(byte)).collect(),
        };
    };
    if !always && !field.is_empty() && !field.iter().any(means) {
        return field.to_vec();
    }
    let inner = field.iter().flat_map(|byte| {
        let before = match dialect.escape {
            Some(escape) if *byte == escape || (*byte == quote && !doubled) => Some(escape),
            _ if *byte == quote => Some(quote),
            _ => None,
        };
        before.into_iter().chain([*byte])
    });
    std::iter::once(quote).chain(inner).chain([quote]).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_what_csv_core_takes_them_for(
        text in any_text(), dialect in any_dialect(), buffer in 1_usize..40,
    ) {
        // csv-core knows escapes in quotes only, and ends a comment with `\n` only.
        let dialect = Dialect { escape: None, ..dialect };
        let mut text = text;
        text.retain(|byte| dialect.comment.is_none() || *byte != b'\r');
        if dialect.comment.is_some() {
            // Nor does it end one at the end of the file.
            text.push(b'\n');
        }
        match parse(&text, dialect, false, buffer) {
            Ok((_, records)) => {
                prop_assert_eq!(&records, &csv_core(&text, dialect));
                if let Ok((_, strict)) = parse(&text, dialect, true, buffer) {
                    prop_assert_eq!(strict, records);
                }
            }
            Err(fault) => {
                prop_assert!(fault.is_of_quotes() && dialect.quote.is_some());
                prop_assert!(parse(&text, dialect, true, buffer).is_err());
            }
        }
    }

    #[test]
    fn any_bytes_are_read_alike_through_any_buffer(
        text in any_text(), dialect in any_dialect(), letters in any::<bool>(), strict in any::<bool>(), buffer in 1_usize..40,
    ) {
        let dialect = Dialect { letters, ..dialect };
        let (small, large) =
            (parse(&text, dialect, strict, buffer), parse(&text, dialect, strict, BUFFER));
        prop_assert_eq!(format!("{small:?}"), format!("{large:?}"));
    }

    #[test]
    fn what_a_writer_writes_comes_back(
        rows in prop::collection::vec(prop::collection::vec(any_text(), 2..4), 0..6),
        dialect in any_dialect(),
        doubled in any::<bool>(), always in any::<bool>(),
        end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
    ) {
        // Where a lone `\r` ends a record, an escaped `\n` behind it would be half a line break.
        let end = if dialect.quote.is_none() && end == "\r" { "\n" } else { end };
        let (mut text, mut expected, mut lines, mut line) = (Vec::new(), Vec::new(), Vec::new(), 1);
        for mut row in rows {
            if dialect.quote.is_none() {
                // `\\` and `\r\n` may be an escaped `\r` at the end of a record, too.
                row.iter_mut().for_each(|field| field.retain(|byte| *byte != b'\r'));
            }
            let fields: Vec<Vec<u8>> =
                row.iter().map(|field| written(field, dialect, doubled, always)).collect();
            let record = fields.join(&dialect.delimiter);
            lines.push(line);
            line += 1 + line_ends(&record);
            text.extend(record);
            text.extend(end.as_bytes());
            expected.push(match (dialect.quote, dialect.escape) {
                // Nothing could be written that means something.
                (None, None) => fields,
                _ => row,
            });
        }
        let (found, records) = parse(&text, dialect, true, 64).unwrap();
        prop_assert_eq!(&records, &expected);
        if dialect.quote.is_some() {
            prop_assert_eq!(found, lines);
            prop_assert_eq!(records, csv_core(&text, dialect));
        }
    }
}

#[test]
fn a_record_has_a_longest_size() {
    let text = format!("a\nb,\"c\nd\"\n{}\n", "x".repeat(99));
    let mut tokens = Tokens::with_buffer(text.as_bytes(), CSV, true, 4);
    tokens.dialect.longest = 16;
    for line in [1, 2] {
        assert_eq!(tokens.next().unwrap().map(|record| record.line), Some(line));
    }
    let fault = tokens.next().err().map(Error::from).unwrap().to_string();
    assert!(fault.contains("line 4: the row that begins here is longer"), "{fault}");
}
