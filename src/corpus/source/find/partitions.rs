//! Hive folders: `lang=en/year=2024/part.parquet` has the columns `lang` and `year`.

use url::Url;

use super::pattern::unescape;
use crate::corpus::source::file::Partition;
use crate::error::{Error, Result};

/// What Hive and Spark call the folder of rows where the column is null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns that the folders of a file name, in their order.
///
/// # Errors
/// Input, naming the file, for a column that is named twice and for escapes that are not UTF-8.
pub(super) fn partitions(folders: &[String], file: &Url) -> Result<Vec<Partition>> {
    let mut columns: Vec<Partition> = Vec::new();
    for folder in folders {
        let Some((name, value)) = folder.split_once('=').filter(|(name, _)| !name.is_empty())
        else {
            continue;
        };
        let decode = |text: &str| {
            unescape(text).ok_or_else(|| {
                Error::input(format!("{file}: folder `{folder}` has %-escapes that are not UTF-8"))
            })
        };
        let name = decode(name)?;
        if columns.iter().any(|(known, _)| *known == name) {
            return Err(Error::input(format!(
                "{file}: two of its folders give column `{name}`; rename one of them"
            )));
        }
        let value = if value == NULL { None } else { Some(decode(value)?) };
        columns.push((name, value));
    }
    Ok(columns)
}

/// Refuses two files of a table whose folders name other columns, or the same in another order.
pub(super) fn check_same(first: (&Url, &[Partition]), other: (&Url, &[Partition])) -> Result<()> {
    let names = |columns: &[Partition]| -> Vec<String> {
        columns.iter().map(|(name, _)| name.clone()).collect()
    };
    let told = |(file, columns): (&Url, &[Partition])| match names(columns).as_slice() {
        [] => format!("{file} is in none"),
        names => format!("{file} in [{}]", names.join(", ")),
    };
    if names(first.1) == names(other.1) {
        return Ok(());
    }
    Err(Error::input(format!(
        "the files of a table must be in folders of the same columns (`column=value`): {}, {}; \
         make them two tables and UNION ALL them in corpus.sql",
        told(first),
        told(other),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(folders: &[&str]) -> Result<Vec<Partition>> {
        let folders: Vec<String> = folders.iter().map(|&folder| folder.to_owned()).collect();
        partitions(&folders, &Url::parse("file:///d/f.csv").unwrap())
    }

    #[test]
    fn folders_name_columns() {
        let columns = of(&["lang=en", "raw", "day=2024-01-01%2000%3A00", "=x", "a=b=c"]).unwrap();
        let expected = [("lang", "en"), ("day", "2024-01-01 00:00"), ("a", "b=c")];
        let expected: Vec<Partition> =
            expected.iter().map(|(name, value)| ((*name).into(), Some((*value).into()))).collect();
        assert_eq!(columns, expected);
        assert_eq!(of(&["x=__HIVE_DEFAULT_PARTITION__"]).unwrap(), [("x".to_owned(), None)]);
        assert_eq!(of(&["x="]).unwrap(), [("x".to_owned(), Some(String::new()))]);
        assert!(of(&["x=1", "x=2"]).unwrap_err().to_string().contains("`x`"));
        assert!(of(&["x=%ff"]).is_err());
    }

    #[test]
    fn files_of_other_columns_are_refused_by_name() {
        let url = |name: &str| Url::parse(&format!("file:///{name}")).unwrap();
        let (one, two) = (url("one"), url("two"));
        let (ab, ba) = (of(&["a=1", "b=1"]).unwrap(), of(&["b=1", "a=1"]).unwrap());
        check_same((&one, &ab), (&two, &of(&["a=2", "b=9"]).unwrap())).unwrap();
        for columns in [&ba[..], &ba[..1], &[]] {
            let error = check_same((&one, &ab), (&two, columns)).unwrap_err().to_string();
            assert!(
                error.contains("file:///one in [a, b]") && error.contains("file:///two"),
                "{error}"
            );
        }
    }
}
