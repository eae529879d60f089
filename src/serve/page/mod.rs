//! The page at `/`: what its form asks, what it knows of earlier snapshots, and how all that becomes HTML.
//!
//! It works without a script; the one it has moves the focus by keys. It asks nobody for anything: its style and its script
//! stand in it, and a `Content-Security-Policy` lets a browser load nothing else. All values are escaped by the templates.

mod form;
mod history;
mod html;
mod view;

use std::sync::Arc;

pub(super) use form::{Asked, Beside, Form};
pub(super) use history::{History, Known};
pub(super) use html::{Html, Nonce};
pub(super) use view::{Found, Frame, Side, card_of};

use crate::error::Result;

/// What the page is made with.
pub(super) struct Page {
    pub html: Html,
    pub history: Arc<History>,
}

impl Page {
    /// # Errors
    /// Internal, where a template is wrong.
    pub fn new() -> Result<Self> {
        Ok(Self { html: Html::new()?, history: Arc::default() })
    }
}
