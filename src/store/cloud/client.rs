//! The clients of S3, Azure, Google Cloud Storage and plain HTTP, from a URL, the options and the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{
    ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, Result, RetryConfig,
};
use url::Url;

use super::exact::Exact;
use super::listen::Listening;
use super::options::StorageOptions;
use super::ranges::WithRanges;
use super::redirect::Browser;
use super::repeat::Repeats;
use super::web::Web;

/// How much longer one request to a web server may take than one to an object store: a file may come in one answer.
const WHOLE_FILE: u32 = 20;

/// A store as a root needs it.
pub struct Cloud {
    /// Retries.
    pub store: Arc<dyn ObjectStore>,
    /// Makes one attempt and hides nothing of it: for conditional creates.
    pub creator: Arc<dyn ObjectStore>,
    /// Where the store is a plain web server.
    pub web: Option<Web>,
}

/// Settings that all clients share.
type Shared = Vec<(ClientConfigKey, String)>;

/// How often and how long a root with these options repeats.
pub fn repeats(options: &StorageOptions) -> Repeats {
    let attempts = options.max_retries.map_or(Repeats::CLOUD.attempts, |n| n.saturating_add(1));
    Repeats { attempts, ..Repeats::CLOUD }
}

/// Opens the store of `url`. `roams`: a web server may redirect to another host. Nothing is asked of the network.
pub fn open(
    kind: &ObjectStoreScheme,
    url: &Url,
    options: &StorageOptions,
    roams: bool,
) -> Result<Cloud> {
    let plain = options.endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
    let timeout = timeout(options);
    let allow_http = options.allow_http.or(plain.then_some(true));
    let mut shared = vec![(ClientConfigKey::Timeout, format!("{} seconds", timeout.as_secs()))];
    shared.extend(allow_http.map(|allow| (ClientConfigKey::AllowHttp, allow.to_string())));
    let many = many(options);
    let one = RetryConfig { max_retries: 0, ..many.clone() };
    let browser = match kind {
        ObjectStoreScheme::Http => Some(browser(url, options, roams)),
        _ => None,
    };
    let (waiting, hearing) =
        (Listening { waits: true, browser }, Listening { waits: false, browser });
    // The builders have no trait in common.
    macro_rules! cloud {
        ($builder:expr) => {{
            let builder = $builder;
            let store = builder.clone().with_retry(many).with_http_connector(waiting).build()?;
            let creator = builder.with_retry(one).with_http_connector(hearing).build()?;
            Cloud { store: Arc::new(store), creator: Arc::new(creator), web: None }
        }};
    }
    Ok(match kind {
        ObjectStoreScheme::AmazonS3 => cloud!(s3(url, options, shared)),
        ObjectStoreScheme::MicrosoftAzure => cloud!(azure(url, options, shared)),
        ObjectStoreScheme::GoogleCloudStorage => cloud!(gcs(url, options, shared)),
        _ => {
            let web = Web::new(waiting.connect(&ClientOptions::new())?, url);
            let server = HttpBuilder::new().with_url(&url[..url::Position::BeforePath]);
            Cloud {
                store: Arc::new(WithRanges(Arc::new(
                    server.clone().with_retry(many).with_http_connector(waiting).build()?,
                ))),
                creator: Arc::new(server.with_retry(one).with_http_connector(hearing).build()?),
                web: Some(web),
            }
        }
    })
}

/// Opens one file of a web server: every path in the store is this file. Nothing is asked of the network.
pub fn open_file(url: &Url, options: &StorageOptions) -> Result<Arc<dyn ObjectStore>> {
    let inner = Listening { waits: true, browser: Some(browser(url, options, true)) };
    let exact = Exact { address: url.clone(), inner };
    let server = HttpBuilder::new()
        .with_url(&url[..url::Position::BeforePath])
        .with_retry(many(options))
        .with_http_connector(exact);
    Ok(Arc::new(WithRanges(Arc::new(server.build()?))))
}

fn timeout(options: &StorageOptions) -> Duration {
    Duration::from_secs(options.request_timeout_seconds.unwrap_or(30))
}

/// Retries.
fn many(options: &StorageOptions) -> RetryConfig {
    let repeats = repeats(options);
    RetryConfig {
        max_retries: repeats.attempts as usize - 1,
        retry_timeout: repeats.total,
        ..RetryConfig::default()
    }
}

fn browser(url: &Url, options: &StorageOptions, roams: bool) -> Browser {
    Browser { timeout: timeout(options) * WHOLE_FILE, plain: url.scheme() == "http", roams }
}

fn s3(url: &Url, options: &StorageOptions, shared: Shared) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env().with_url(url.to_string());
    for (key, value) in shared {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(path_style) = options.path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    builder
}

fn azure(url: &Url, options: &StorageOptions, shared: Shared) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.to_string());
    for (key, value) in shared {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    if let Some(endpoint) = &options.endpoint {
        // An emulator of the environment would win over the endpoint.
        builder = builder.with_endpoint(endpoint.clone()).with_use_emulator(false);
    }
    builder
}

fn gcs(url: &Url, options: &StorageOptions, shared: Shared) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url.to_string());
    for (key, value) in shared {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint);
    }
    builder
}
