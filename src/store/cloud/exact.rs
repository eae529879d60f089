//! An HTTP client for one address: whatever `object_store` makes of a path, this very address is asked, with its query.
//! So a signature stays here: what `object_store` logs and says in errors is the address without it.

use std::fmt;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use url::Url;

use super::listen::Listening;

/// Makes clients that ask for one address.
pub(super) struct Exact {
    pub address: Url,
    pub inner: Listening,
}

/// Without the query.
impl fmt::Debug for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Exact").field(&&self.address[..url::Position::AfterPath]).finish()
    }
}

impl HttpConnector for Exact {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = self.inner.connect(options)?;
        Ok(HttpClient::new(Asker { address: self.address.clone(), inner }))
    }
}

struct Asker {
    address: Url,
    inner: HttpClient,
}

/// Without the query.
impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Asker").field(&&self.address[..url::Position::AfterPath]).finish()
    }
}

#[async_trait]
impl HttpService for Asker {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        *request.uri_mut() = self
            .address
            .as_str()
            .parse()
            .map_err(|cause| HttpError::new(HttpErrorKind::Unknown, cause))?;
        let answer = self.inner.execute(request).await?;
        if self.address.query().is_none() || answer.status().is_success() {
            return Ok(answer);
        }
        // A server may repeat the signature in what it says of it.
        let (parts, _) = answer.into_parts();
        Ok(HttpResponse::from_parts(parts, String::new().into()))
    }
}
