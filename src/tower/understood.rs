//! What a tower's options leave to the model: filled in from what its files say, each value with its source.

use crate::error::{Error, Result};
use crate::tower::files::sentence::{Card, Said};
use crate::tower::{Defaults, Side, TowerOptions, known};

/// Longest text where neither the options nor the model's files say one.
const MAX_TOKENS: u32 = 512;

/// Where a value of a tower comes from that its options leave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Understood {
    /// The option.
    pub key: &'static str,
    /// The model's file or GGUF key, `the model's page`, or `default`.
    pub by: String,
}

/// Fills in every option that is left out. `positions` is the longest sequence that the model knows.
///
/// # Errors
/// Config where nobody says how token states become a vector.
pub(super) fn fill(
    options: &mut TowerOptions,
    card: &Card,
    positions: usize,
) -> Result<Vec<Understood>> {
    let mut understood = Vec::new();
    let mut note = |key, by: Option<&str>| {
        understood.push(Understood { key, by: by.unwrap_or("default").to_owned() });
    };
    if options.pooling.is_none() {
        let said = card.pooling.as_ref().ok_or_else(|| {
            Error::config(format!(
                "`pooling` is not set, and no file of {} says how its token states become a vector; most encoders want \
                 \"mean\" or \"cls\", most decoders \"last-token\"",
                options.model
            ))
        })?;
        options.pooling = Some(said.value);
        note("pooling", Some(&said.by));
    }
    let nothing = Card::default();
    let card = match options.defaults {
        Defaults::Model => card,
        Defaults::None => &nothing,
    };
    if options.prompt_prefix.is_none() {
        let said = match options.side {
            Side::Query => &card.query_prompt,
            Side::Document => &card.document_prompt,
        };
        let page = || {
            let repo = options.model.strip_prefix("hf:")?;
            let value = known::prompt(repo, options.side)?.to_owned();
            Some(Said { value, by: "the model's page".to_owned() })
        };
        let by_page = (options.defaults == Defaults::Model).then(page).flatten();
        let said = said.clone().or(by_page);
        note("prompt_prefix", said.as_ref().map(|said| said.by.as_str()));
        options.prompt_prefix = Some(said.map(|said| said.value).unwrap_or_default());
    }
    if options.prompt_suffix.is_none() {
        options.prompt_suffix = Some(String::new());
        note("prompt_suffix", None);
    }
    if options.max_tokens.is_none() {
        let said = card.max_tokens.as_ref();
        note("max_tokens", said.map(|said| said.by.as_str()));
        let longest = u32::try_from(positions).unwrap_or(u32::MAX);
        options.max_tokens = Some(match options.defaults {
            // More than there are positions is refused later, as if it had been written down.
            Defaults::None => MAX_TOKENS,
            Defaults::Model => said.map_or(MAX_TOKENS, |said| said.value).min(longest),
        });
    }
    if options.normalize.is_none() {
        let said = card.normalize.as_ref();
        note("normalize", said.map(|said| said.by.as_str()));
        options.normalize = Some(said.is_none_or(|said| said.value));
    }
    Ok(understood)
}
