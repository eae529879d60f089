//! What the values of a text column were, and the type that they make.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

use super::named::Named;
use crate::corpus::options::TypeRule;

/// Where a value stands: the file's place among those of its table, and the line that its row begins in, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) line: u64,
}

/// How a value is written. What is exact is printed as the file writes it once it is a value of its type; what is loose
/// is not (`007`, `1.10`, `TRUE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Bool,
    LooseBool,
    Int,
    LooseInt,
    /// A whole number that does not fit 64 bits.
    HugeInt,
    Float,
    LooseFloat,
    Date,
    Second,
    Milli,
    Micro,
    Nano,
    Text,
}

const KINDS: usize = Kind::Text as usize + 1;

impl Kind {
    /// The kind of a value of a CSV file.
    pub(super) fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        match bytes.first() {
            Some(b't' | b'T' | b'f' | b'F') => match text {
                "true" | "false" => Self::Bool,
                _ if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") => {
                    Self::LooseBool
                }
                _ => Self::Text,
            },
            Some(b'0'..=b'9' | b'-' | b'.') => match time(bytes) {
                Some(kind) => kind,
                None => Self::number(text),
            },
            Some(b'N' | b'n' | b'i') if matches!(text, "NaN" | "nan" | "inf") => Self::LooseFloat,
            _ => Self::Text,
        }
    }

    /// The kind of a number as CSV and JSON write it; text where it is none.
    pub(super) fn number(text: &str) -> Self {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse::<i64>() {
                Ok(_) if digits == "0" && text != digits => Self::LooseInt,
                Ok(_) if digits.len() > 1 && digits.starts_with('0') => Self::LooseInt,
                Ok(_) => Self::Int,
                Err(_) => Self::HugeInt,
            };
        }
        if text == "-inf" {
            return Self::LooseFloat;
        }
        if !is_decimal(digits.as_bytes()) {
            return Self::Text;
        }
        match text.parse::<f64>() {
            // As a template prints it, and short enough that nothing of it was rounded.
            Ok(value) if digits.len() <= 16 && format!("{value:?}") == text => Self::Float,
            Ok(_) => Self::LooseFloat,
            Err(_) => Self::Text,
        }
    }
}

/// Digits with a point, an exponent or both, without a sign.
fn is_decimal(bytes: &[u8]) -> bool {
    let (mantissa, exponent) = match bytes.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    let digits = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
    let fits = match mantissa.iter().position(|b| *b == b'.') {
        Some(at) => mantissa.len() > 1 && digits(&mantissa[..at]) && digits(&mantissa[at + 1..]),
        None => exponent.is_some() && !mantissa.is_empty() && digits(mantissa),
    };
    let exponent = exponent.map(|e| e.strip_prefix(b"-").or(e.strip_prefix(b"+")).unwrap_or(e));
    fits && exponent.is_none_or(|e| !e.is_empty() && digits(e))
}

/// Days and points in time by their shape, as arrow's CSV reader tells them.
fn time(bytes: &[u8]) -> Option<Kind> {
    let shape = |bytes: &[u8], shape: &[u8]| {
        bytes.len() >= shape.len()
            && bytes.iter().zip(shape).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b' '),
                other => byte == other,
            })
    };
    if !shape(bytes, b"0000-00-00") {
        return None;
    }
    if bytes.len() == 10 {
        return Some(Kind::Date);
    }
    if !shape(&bytes[10..], b"T00:00:00") || bytes.contains(&b'\n') {
        return None;
    }
    let rest = &bytes[19..];
    // A digit of another script makes it text to arrow, and no other such character is part of a time.
    if !rest.is_ascii() {
        return None;
    }
    let Some(fraction) = rest.strip_prefix(b".") else {
        return match rest.first() {
            Some(b'0'..=b'9') => None,
            _ => Some(Kind::Second),
        };
    };
    match fraction.iter().take_while(|b| b.is_ascii_digit()).count() {
        1..=3 => Some(Kind::Milli),
        4..=6 => Some(Kind::Micro),
        7..=9 => Some(Kind::Nano),
        _ => None,
    }
}

/// The values of one column, over all rows and files.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The first value of each kind.
    first: [Option<Place>; KINDS],
    /// JSON: the first list, and the values in all of them.
    list: Option<(Place, Box<Seen>)>,
    /// JSON: the first object, and the fields of all of them.
    object: Option<(Place, Box<Object>)>,
}

/// The fields of the objects of one JSON field.
#[derive(Debug, Clone, Default)]
pub(super) struct Object {
    fields: Named<Seen>,
    /// The first field that is one too many.
    crowded: Option<Place>,
}

/// This many different fields have a type. More are the values of a map: ids, words.
pub(super) const MOST_FIELDS: usize = 10_000;

impl Object {
    /// The values of a field; none where there are too many fields.
    pub(super) fn field(&mut self, name: &str, place: Place) -> Option<&mut Seen> {
        let field = self.fields.entry(name, MOST_FIELDS);
        if field.is_none() {
            self.crowded = Some(self.crowded.map_or(place, |known| place.min(known)));
        }
        field
    }
}

/// Two values of one JSON field that have no common type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    /// The field, with dots where it is nested.
    pub(super) field: String,
    pub(super) one: (&'static str, Place),
    pub(super) other: (&'static str, Place),
}

impl Seen {
    /// Notes a value.
    pub(super) fn see(&mut self, kind: Kind, place: Place) {
        let first = &mut self.first[kind as usize];
        if first.is_none_or(|known| place < known) {
            *first = Some(place);
        }
    }

    /// JSON: the values of the lists of this field.
    pub(super) fn list(&mut self, place: Place) -> &mut Self {
        let (first, items) = self.list.get_or_insert_with(|| (place, Box::default()));
        *first = place.min(*first);
        items
    }

    /// JSON: notes an object; its fields are asked for one by one.
    pub(super) fn object(&mut self, place: Place) -> &mut Object {
        let (first, object) = self.object.get_or_insert_with(|| (place, Box::default()));
        *first = place.min(*first);
        object
    }

    /// Adds what was seen in another file.
    pub(super) fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.first.iter_mut().zip(other.first) {
            *mine = mine.iter().chain(&theirs).min().copied();
        }
        if let Some((place, items)) = other.list {
            self.list(place).merge(*items);
        }
        if let Some((place, object)) = other.object {
            let mine = self.object(place);
            mine.crowded = mine.crowded.iter().chain(&object.crowded).min().copied();
            for (name, seen) in object.fields.into_entries() {
                if let Some(field) = mine.field(&name, place) {
                    field.merge(seen);
                }
            }
        }
    }

    /// JSON: whether every value is a list of objects.
    pub(super) fn is_list_of_objects(&self) -> bool {
        let alone = self.kinds() == 0 && self.object.is_none();
        let objects = |items: &Self| items.kinds() == 0 && items.list.is_none();
        alone && self.list.as_ref().is_some_and(|(_, items)| objects(items))
    }

    /// JSON: whether every value is an object with the field.
    pub(super) fn is_object_with(&self, name: &str) -> bool {
        let object = self.object.as_ref().is_some_and(|(_, object)| object.fields.contains(name));
        object && self.kinds() == 0 && self.list.is_none()
    }

    /// Whether nothing was seen but nulls.
    pub(super) fn is_empty(&self) -> bool {
        self.kinds() == 0 && self.list.is_none() && self.object.is_none()
    }

    /// Whether a text was seen: whatever comes behind it in the file changes nothing.
    pub(super) fn is_text(&self) -> bool {
        self.first(Kind::Text).is_some()
    }

    fn first(&self, kind: Kind) -> Option<Place> {
        self.first[kind as usize]
    }

    /// The first of several kinds.
    fn first_of(&self, kinds: &[Kind]) -> Option<Place> {
        kinds.iter().filter_map(|kind| self.first(*kind)).min()
    }

    /// Kinds seen, a bit each.
    fn kinds(&self) -> u16 {
        let seen = self.first.iter().enumerate().filter(|(_, first)| first.is_some());
        seen.fold(0, |bits, (kind, _)| bits | 1 << kind)
    }

    /// The type of a CSV column. `Null` where it has no value.
    pub(super) fn csv_type(&self, rule: TypeRule) -> DataType {
        match rule {
            TypeRule::Exact => self.exact_type(),
            TypeRule::Guessed => self.guessed_type(),
        }
    }

    fn exact_type(&self) -> DataType {
        const fn only(kind: Kind) -> u16 {
            1 << kind as u8
        }
        const BOOL: u16 = only(Kind::Bool);
        const INT: u16 = only(Kind::Int);
        const FLOAT: u16 = only(Kind::Float);
        match self.kinds() {
            0 => DataType::Null,
            BOOL => DataType::Boolean,
            INT => DataType::Int64,
            FLOAT => DataType::Float64,
            _ => DataType::Utf8,
        }
    }

    /// As arrow's CSV reader infers it, which 0.1.0 used.
    fn guessed_type(&self) -> DataType {
        let seen = |kinds: &[Kind]| self.first_of(kinds).is_some();
        let bools = seen(&[Kind::Bool, Kind::LooseBool]);
        let ints = seen(&[Kind::Int, Kind::LooseInt]);
        let floats = seen(&[Kind::Float, Kind::LooseFloat]);
        let times = seen(&[Kind::Date, Kind::Second, Kind::Milli, Kind::Micro, Kind::Nano]);
        let text = seen(&[Kind::HugeInt, Kind::Text]);
        match (bools, ints, floats, times, text) {
            (false, false, false, false, false) => DataType::Null,
            (true, false, false, false, false) => DataType::Boolean,
            (false, true, false, false, false) => DataType::Int64,
            (false, _, true, false, false) => DataType::Float64,
            (false, false, false, true, false) => {
                let finest = [
                    (Kind::Nano, TimeUnit::Nanosecond),
                    (Kind::Micro, TimeUnit::Microsecond),
                    (Kind::Milli, TimeUnit::Millisecond),
                    (Kind::Second, TimeUnit::Second),
                ];
                let unit = finest.into_iter().find(|(kind, _)| self.first(*kind).is_some());
                unit.map_or(DataType::Date32, |(_, unit)| DataType::Timestamp(unit, None))
            }
            _ => DataType::Utf8,
        }
    }

    /// The type of a JSON field. Strings are text, whatever they look like.
    pub(super) fn json_type(&self, rule: TypeRule, name: &str) -> Result<DataType, Conflict> {
        const NUMBERS: [Kind; 5] =
            [Kind::Int, Kind::LooseInt, Kind::HugeInt, Kind::Float, Kind::LooseFloat];
        let families = [
            ("a boolean", self.first(Kind::Bool)),
            ("a number", self.first_of(&NUMBERS)),
            ("a string", self.first(Kind::Text)),
            ("a list", self.list.as_ref().map(|(place, _)| *place)),
            ("an object", self.object.as_ref().map(|(place, _)| *place)),
        ];
        let mut found = families.into_iter().filter_map(|(what, place)| Some((what, place?)));
        let Some(one) = found.next() else { return Ok(DataType::Null) };
        if let Some(other) = found.next() {
            let (one, other) = if one.1 <= other.1 { (one, other) } else { (other, one) };
            return Err(Conflict { field: name.to_owned(), one, other });
        }
        Ok(match (&self.list, &self.object) {
            (Some((_, items)), _) => {
                DataType::List(Arc::new(Field::new_list_field(items.json_type(rule, name)?, true)))
            }
            (_, Some((first, object))) => {
                if let Some(crowded) = object.crowded {
                    return Err(Conflict {
                        field: name.to_owned(),
                        one: ("an object", *first),
                        other: ("one with more than 10000 different fields", crowded),
                    });
                }
                let typed = |(inner, seen): &(String, Self)| -> Result<FieldRef, Conflict> {
                    let data_type = seen.json_type(rule, &format!("{name}.{inner}"))?;
                    Ok(Arc::new(Field::new(inner, data_type, true)))
                };
                let fields = object.fields.entries().iter().map(typed);
                DataType::Struct(fields.collect::<Result<Fields, Conflict>>()?)
            }
            _ if self.first(Kind::Text).is_some() => DataType::Utf8,
            _ if rule == TypeRule::Exact => self.exact_type(),
            _ if self.first(Kind::Bool).is_some() => DataType::Boolean,
            // What is loose is `-0`, which no whole number of 64 bits is.
            _ if self.first_of(&NUMBERS[1..]).is_some() => DataType::Float64,
            _ => DataType::Int64,
        })
    }

    /// The first value that is not an exact one of a type that a column had before. Text has room for every value.
    pub(super) fn first_beside(&self, data_type: &DataType) -> Option<Place> {
        let fits: &[Kind] = match data_type {
            DataType::Boolean => &[Kind::Bool],
            DataType::Int64 => &[Kind::Int],
            DataType::Float64 => &[Kind::Float],
            _ => return None,
        };
        let others = (0..KINDS).filter(|kind| fits.iter().all(|fit| *fit as usize != *kind));
        let others = others.filter_map(|kind| self.first[kind]);
        let nested = self.list.iter().map(|(place, _)| *place);
        others.chain(nested).chain(self.object.iter().map(|(place, _)| *place)).min()
    }

    /// The first value that is not printed as the file writes it once the column has this guessed type, so that texts
    /// and ids that differ in the file may be one.
    pub(super) fn first_respelled(&self, guessed: &DataType) -> Option<Place> {
        match guessed {
            DataType::Int64 => self.first(Kind::LooseInt),
            DataType::Float64 => {
                self.first_of(&[Kind::Int, Kind::LooseInt, Kind::HugeInt, Kind::LooseFloat])
            }
            _ => None,
        }
    }
}
