//! What a template prints of a number is the number.

use std::sync::Arc;

use arrow::array::*;
use arrow::compute::cast;
use arrow::datatypes::*;

use scalingnote::corpus::TypeRule;

use super::Corpus;
use crate::house::hostile::targets::files::ipc;

/// The texts of a column of one row, by template.
async fn printed(values: &ArrayRef, strict: bool, template: &str) -> Vec<String> {
    let ids = Int64Array::from_iter_values(0..values.len() as i64);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("note_id", Arc::new(ids) as ArrayRef, true),
        ("title", Arc::new(StringArray::from(vec!["t"; values.len()])) as ArrayRef, true),
        ("n", Arc::clone(values), true),
    ])
    .unwrap();
    let mut corpus = Corpus::new("n.arrow", "SELECT * FROM notes").write("n.arrow", ipc(&batch));
    if !strict {
        corpus.options.types = TypeRule::Guessed;
    }
    corpus.options.template = format!("{{{{ title }}}}{template}");
    let texts = corpus.texts().await;
    texts.into_iter().map(|(_, text)| text[1..].trim().to_owned()).collect()
}

/// Ways to print a value as it is.
const PLAIN: [&str; 8] = [
    " {{ n }}",
    " {{ n ~ '' }}",
    " {{ n | string }}",
    " {{ [n] | join(',') }}",
    " {{ '%s' | format(n) }}",
    " {% set m = n %}{{ m | default('none') }}",
    " {% for m in [n] %}{{ m }}{% endfor %}",
    " {{ [n, n] | unique | first }}",
];

/// Ways to print a whole number that calculate or convert without a change.
const WHOLE: [&str; 9] = [
    " {{ n | int }}",
    " {{ n | round }}",
    " {{ n + 0 }}",
    " {{ n - 1 + 1 }}",
    " {{ n * 1 }}",
    " {{ n // 1 }}",
    " {{ [n] | sum }}",
    " {{ [n, n] | max }}",
    " {{ '%d' | format(n) }}",
];

#[tokio::test(flavor = "multi_thread")]
async fn whole_numbers_keep_their_digits() {
    let columns: [(ArrayRef, &[&str]); 8] = [
        (
            Arc::new(UInt64Array::from(vec![u64::MAX, (1 << 53) + 1])),
            &["18446744073709551615", "9007199254740993"],
        ),
        (
            Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX])),
            &["-9223372036854775808", "9223372036854775807"],
        ),
        (Arc::new(UInt32Array::from(vec![u32::MAX])), &["4294967295"]),
        (Arc::new(Int32Array::from(vec![i32::MIN])), &["-2147483648"]),
        (Arc::new(UInt16Array::from(vec![u16::MAX])), &["65535"]),
        (Arc::new(Int16Array::from(vec![i16::MIN])), &["-32768"]),
        (Arc::new(UInt8Array::from(vec![u8::MAX])), &["255"]),
        (Arc::new(Int8Array::from(vec![i8::MIN])), &["-128"]),
    ];
    for (values, expected) in columns {
        for template in PLAIN.iter().chain(&WHOLE) {
            for strict in [false, true] {
                let texts = printed(&values, strict, template).await;
                assert_eq!(texts, expected, "{template} of {}", values.data_type());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decimals_keep_their_digits() {
    let digits = 12_345_678_901_234_567_890_123_456_789_012_345_678_i128;
    let whole = "12345678901234567890123456789012345678";
    let split = "123456789012345678901234567890123456.78";
    let decimal = |scale| -> ArrayRef {
        Arc::new(
            Decimal128Array::from(vec![digits, -digits])
                .with_precision_and_scale(38, scale)
                .unwrap(),
        )
    };
    for template in PLAIN {
        let (a, b) = (
            printed(&decimal(0), true, template).await,
            printed(&decimal(2), true, template).await,
        );
        assert_eq!(a, [whole.to_owned(), format!("-{whole}")], "{template}");
        assert_eq!(b, [split.to_owned(), format!("-{split}")], "{template}");
        let wide = cast(&decimal(0), &DataType::Decimal256(76, 30)).unwrap();
        let zeros = "0".repeat(30);
        assert_eq!(
            printed(&wide, true, template).await[0],
            format!("{whole}.{zeros}"),
            "{template}"
        );
        let small: ArrayRef =
            Arc::new(Decimal32Array::from(vec![110, -5]).with_precision_and_scale(9, 2).unwrap());
        assert_eq!(printed(&small, true, template).await, ["1.10", "-0.05"], "{template}");
    }
    assert_eq!(printed(&decimal(0), true, " {{ n | int }}").await[1], format!("-{whole}"));
    let int = printed(&decimal(2), true, " {{ n | int }}").await;
    assert_eq!(
        int,
        ["123456789012345678901234567890123456", "-123456789012345678901234567890123456"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn floats_print_the_digits_that_name_them() {
    let halves =
        cast(&(Arc::new(Float32Array::from(vec![0.1, -65504.0])) as ArrayRef), &DataType::Float16)
            .unwrap();
    let columns: [(ArrayRef, Vec<String>); 3] = [
        (
            Arc::new(Float64Array::from(vec![0.1, 1e300, 2.0, -0.0, 5e-324, f64::MAX])),
            vec![
                "0.1".into(),
                format!("1{}.0", "0".repeat(300)),
                "2.0".into(),
                "-0.0".into(),
                format!("0.{}5", "0".repeat(323)),
                format!("17976931348623157{}.0", "0".repeat(292)),
            ],
        ),
        (
            Arc::new(Float32Array::from(vec![0.1, 16_777_216.0, 3.4e38, 1.5, f32::MIN_POSITIVE])),
            vec![
                "0.1".into(),
                "16777216.0".into(),
                format!("34{}.0", "0".repeat(37)),
                "1.5".into(),
                format!("0.{}11754944", "0".repeat(37)),
            ],
        ),
        (halves, vec!["0.099975586".into(), "-65504.0".into()]),
    ];
    for (values, expected) in columns {
        for template in PLAIN {
            let texts = printed(&values, true, template).await;
            assert_eq!(texts, expected, "{template} of {}", values.data_type());
        }
    }
    // A file of version 1 keeps its texts, or all its notes would be encoded again.
    let short: ArrayRef = Arc::new(Float32Array::from(vec![0.1, 1.5]));
    assert_eq!(printed(&short, false, PLAIN[0]).await, ["0.10000000149011612", "1.5"]);
}

/// What no integer holds is not an integer: the note is rejected, not given another number.
#[tokio::test(flavor = "multi_thread")]
async fn the_filter_int_makes_nothing_up() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![2.9, -2.9, 1e18]));
    assert_eq!(printed(&floats, true, " {{ n | int }}").await, ["2", "-2", "1000000000000000000"]);
    let texts: ArrayRef =
        Arc::new(StringArray::from(vec!["18446744073709551617.9", "1e3", "-.5", "42"]));
    assert_eq!(
        printed(&texts, true, " {{ n | int }}").await,
        ["18446744073709551617", "1000", "0", "42"]
    );
    for value in [1e39, f64::INFINITY, f64::NAN] {
        let csv = format!("note_id,title,n\n1,t,{value}\n2,t,1.5\n");
        let mut corpus =
            Corpus::new("n.csv", "SELECT note_id, title, CAST(n AS DOUBLE) AS n FROM notes")
                .write("n.csv", csv);
        corpus.options.template = "{{ title }}{{ n | int }}".into();
        corpus.options.max_rejected = 1;
        let (outcome, rows) = corpus.rows().await;
        assert_eq!((outcome.rejections.total(), rows[0].text.as_str()), (1, "t1"), "{value}");
    }
}
