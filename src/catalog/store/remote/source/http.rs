//! What a server of objects answers over HTTP.

use async_trait::async_trait;
use http_body_util::{BodyExt, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

/// The largest answer that is searched for the name of an error.
const LIMIT: usize = 64 << 10;

/// Makes clients that turn a failure's status into an [`Answered`], which can be told from
/// other errors by its type.
#[derive(Debug)]
pub struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // `reqwest` is built without a choice of its own. It is an error if somebody has
        // chosen before, and that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Client(client)))
    }
}

#[derive(Debug)]
struct Client(HttpClient);

/// A server's answer that it did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server answered {status}{}", code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default())]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The protocol's own name of the error.
    pub code: Option<String>,
}

impl Answered {
    /// Whether another attempt may succeed: the server has a problem, or too much to do.
    pub fn may_pass(&self) -> bool {
        self.status >= 500 || matches!(self.status, 408 | 425 | 429)
    }

    /// Whether it is a matter of permissions.
    pub fn is_denial(&self) -> bool {
        matches!(self.status, 401 | 403)
    }
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.execute(request).await?;
        let status = response.status().as_u16();
        // `object_store` knows the last two for what they are, and a redirection that
        // leads nowhere, too.
        if status < 400 || matches!(status, 404 | 412) {
            return Ok(response);
        }
        let body = Limited::new(response.into_body(), LIMIT).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let answered = Answered {
            status,
            code: code(&String::from_utf8_lossy(&body)),
        };
        Err(HttpError::new(HttpErrorKind::Unknown, answered))
    }
}

/// Returns the name of the error in an answer of S3 or Azure.
fn code(body: &str) -> Option<String> {
    let (_, rest) = body.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_name = |c: char| c.is_ascii_alphanumeric();
    (code.len() < 64 && code.chars().all(is_name)).then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_named_as_the_server_names_it() {
        let body = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>";
        let answered = Answered {
            status: 403,
            code: code(body),
        };
        assert_eq!(
            answered.to_string(),
            "the server answered 403 (AccessDenied)"
        );
        assert!(answered.is_denial() && !answered.may_pass());
        for body in ["", "<Code>", "<Code>a\u{1b}[0m</Code>"] {
            assert_eq!(code(body), None);
        }
        let answered = Answered {
            status: 503,
            code: None,
        };
        assert_eq!(answered.to_string(), "the server answered 503");
        assert!(answered.may_pass());
    }
}
