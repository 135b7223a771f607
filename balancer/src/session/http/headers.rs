//! PURE. Header fields that are for the next hop only, and those that tell a server of its client.

use std::fmt;
use std::net::IpAddr;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::uri::Authority;
use hyper::{Request, Response, StatusCode, Uri, Version};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Of one hop, whatever `Connection` says.
const OF_ONE_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that are for all hops: what was chosen by them must be what the server hears.
const OF_ALL_HOPS: [HeaderName; 2] = [HOST, CONTENT_LENGTH];

/// The request names its host twice, or not as it must.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoHost;

/// The host that is asked for, without its port and in lower case; `None`: a client of HTTP/1.0 need not tell.
pub(super) fn host<B>(request: &Request<B>) -> Result<Option<String>, NoHost> {
    let mut told = request.headers().get_all(HOST).iter();
    let (first, second) = (told.next(), told.next());
    if second.is_some() || (first.is_none() && request.version() == Version::HTTP_11) {
        return Err(NoHost);
    }
    let told =
        first.map(|told| host_of(told.to_str().ok()?.parse().ok().as_ref()?)).map(|host| host.ok_or(NoHost));
    let named = request.uri().authority().map(|authority| host_of(authority).ok_or(NoHost));
    // Both must be well; the URI's counts.
    let (told, named) = (told.transpose()?, named.transpose()?);
    Ok(named.or(told))
}

/// `None`: `user@host`, of which servers and proxies make different things.
fn host_of(authority: &Authority) -> Option<String> {
    (!authority.as_str().contains('@')).then(|| authority.host().to_ascii_lowercase())
}

/// Makes of a client's request one for the `server`. Whether it asks for a WebSocket.
pub(super) fn forward<B>(
    request: &mut Request<B>,
    client: IpAddr,
    over_tls: bool,
    server: impl fmt::Display,
) -> bool {
    let upgrading = asks_for_websocket(request.headers());
    strip(request.headers_mut());
    let headers = request.headers_mut();
    if upgrading {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    } else {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // Behind what is there already: the last address is the one that we vouch for.
    let before = headers.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<String> = before.map(str::to_owned).chain([client.to_string()]).collect();
    if let Ok(all) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(FORWARDED_FOR, all);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if over_tls { "https" } else { "http" }));
    // A proxy is asked for a whole URI, a server for a path; its host is told in `Host`.
    if let Some(authority) = request.uri().authority().map(|authority| authority.as_str().to_owned())
        && let Ok(value) = HeaderValue::from_str(&authority)
    {
        request.headers_mut().insert(HOST, value);
    } else if !request.headers().contains_key(HOST)
        && let Ok(value) = HeaderValue::from_str(&server.to_string())
    {
        // A client of HTTP/1.0 need not tell it; from here on it is 1.1.
        request.headers_mut().insert(HOST, value);
    }
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    *request.version_mut() = Version::HTTP_11;
    upgrading
}

/// Takes away what is for one hop only, and what `Connection` names so.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
    let named = named.iter().filter(|name| !OF_ALL_HOPS.contains(name));
    for name in named.chain(&OF_ONE_HOP) {
        headers.remove(name);
    }
}

/// The client's next request is to come over another connection. What is switched has none, and `Connection` says so.
pub(super) fn close_after<B>(answer: &mut Response<B>) {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn asks_for_websocket(headers: &HeaderMap) -> bool {
    tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
        && tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().uri(uri);
        fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn the_host_is_told_once_and_well() {
        for (uri, fields, expected) in [
            ("/", &[("host", "EU.example:8080")][..], Ok(Some("eu.example"))),
            ("http://a.example/x", &[("host", "b.example")], Ok(Some("a.example"))),
            ("/", &[("host", "[::1]:80")], Ok(Some("[::1]"))),
            ("/", &[("host", "a"), ("host", "b")], Err(NoHost)),
            ("/", &[("host", "a b")], Err(NoHost)),
            ("/", &[("host", "x@b")], Err(NoHost)),
            ("/", &[("host", "x:y@b:80")], Err(NoHost)),
            ("http://x@b/", &[("host", "b")], Err(NoHost)),
            ("http://b/", &[("host", "x@b")], Err(NoHost)),
            ("/", &[], Err(NoHost)),
        ] {
            let told = host(&request(uri, fields));
            assert_eq!(told.as_ref().map(Option::as_deref), expected.as_ref().copied(), "{uri} {fields:?}");
        }
    }

    #[test]
    fn fields_of_one_hop_stay_here_and_the_client_is_told_of() {
        let fields = [
            ("host", "a"),
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("accept", "*/*"),
        ];
        let mut request = request("http://b/x?y=1", &fields);
        assert!(!forward(&mut request, "192.0.2.7".parse().unwrap(), false, "s:80"));
        let mut left: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(
            left,
            [
                ("accept", "*/*"),
                ("connection", "close"),
                ("host", "b"),
                ("x-forwarded-for", "203.0.113.9, 192.0.2.7"),
                ("x-forwarded-proto", "http"),
            ]
        );
        assert_eq!(request.uri(), "/x?y=1");
    }

    /// The backend was chosen by the host, and the body is as long as was said.
    #[test]
    fn host_and_length_go_on_whatever_connection_says() {
        let fields = [
            ("host", "a"),
            ("content-length", "4"),
            ("connection", "Host, content-length, x-a"),
            ("x-a", "1"),
        ];
        let mut told = request("/", &fields);
        forward(&mut told, "::1".parse().unwrap(), false, "s:80");
        assert_eq!(
            (&told.headers()[HOST], &told.headers()[CONTENT_LENGTH]),
            (&"a".parse().unwrap(), &"4".parse().unwrap())
        );
        assert!(!told.headers().contains_key("x-a"));
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        forward(&mut old, "::1".parse().unwrap(), false, "s:80");
        assert_eq!(
            (&old.headers()[HOST], old.version()),
            (&HeaderValue::from_static("s:80"), Version::HTTP_11)
        );
    }

    #[test]
    fn an_answer_that_switches_keeps_its_connection() {
        for (status, expected) in [(StatusCode::OK, "close"), (StatusCode::SWITCHING_PROTOCOLS, "upgrade")] {
            let mut answer =
                Response::builder().status(status).header(CONNECTION, "upgrade").body(()).unwrap();
            close_after(&mut answer);
            assert_eq!(answer.headers()[CONNECTION], expected);
        }
    }

    #[test]
    fn a_websocket_is_asked_for_on() {
        let fields = [
            ("host", "a"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "x"),
        ];
        let mut request = request("/mqtt", &fields);
        assert!(forward(&mut request, "::1".parse().unwrap(), true, "s:80"));
        assert_eq!(request.headers()[UPGRADE], "websocket");
        assert_eq!(request.headers()["sec-websocket-key"], "x");
    }
}
