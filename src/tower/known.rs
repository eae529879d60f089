//! Prompts that a model's authors ask for in words, on its page, and in no file that a program reads.

use crate::tower::Side;

/// What most of the instruction-tuned E5 models were trained to search with.
const E5_INSTRUCT: &str =
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ";
const BGE: &str = "Represent this sentence for searching relevant passages: ";

/// The text before a query or a note of a Hugging Face repository, where its page asks for one.
pub(super) fn prompt(repo: &str, side: Side) -> Option<&'static str> {
    let (organisation, name) = repo.split_once('/')?;
    let (query, document) = match (organisation, name) {
        ("intfloat", "e5-mistral-7b-instruct" | "multilingual-e5-large-instruct") => {
            (E5_INSTRUCT, "")
        }
        ("intfloat", name) if name.starts_with("e5-") || name.starts_with("multilingual-e5-") => {
            ("query: ", "passage: ")
        }
        ("BAAI", name) if name.starts_with("bge-") && name.contains("-en") => (BGE, ""),
        ("BAAI", name) if name.starts_with("bge-") && name.contains("-zh") => {
            ("为这个句子生成表示以用于检索相关文章：", "")
        }
        _ => return None,
    };
    Some(match side {
        Side::Query => query,
        Side::Document => document,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_ask_for_prompts() {
        for (repo, query, document) in [
            ("intfloat/e5-small-v2", "query: ", "passage: "),
            ("intfloat/multilingual-e5-base", "query: ", "passage: "),
            ("intfloat/e5-mistral-7b-instruct", E5_INSTRUCT, ""),
            ("BAAI/bge-small-en-v1.5", BGE, ""),
        ] {
            assert_eq!(prompt(repo, Side::Query), Some(query), "{repo}");
            assert_eq!(prompt(repo, Side::Document), Some(document), "{repo}");
        }
        for repo in ["sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-m3", "e5-small", ""] {
            assert_eq!(prompt(repo, Side::Query), None, "{repo}");
        }
    }
}
