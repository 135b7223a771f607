use super::*;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().copied().map(Pattern::new).collect()
}

fn connect<'a>(id: &'a str, user: Option<&'a str>) -> Connect<'a> {
    Connect { user_name: user, ..Connect::new(Version::V5, id) }
}

fn facts<'a>(connect: Option<&'a Connect<'a>>) -> Facts<'a> {
    Facts {
        port: 8883,
        source: "10.1.2.3".parse().unwrap(),
        over_tls: true,
        server_name: Some("EU.Example.com"),
        certified: Some("gateway-7"),
        connect,
        request: Some(Asked { host: Some("example.com"), path: "/api/x" }),
    }
}

#[test]
fn each_condition_holds_or_not_by_itself() {
    let connect = connect("factory-7", Some("lelylan"));
    let all = facts(Some(&connect));
    let bare = Facts {
        server_name: None,
        certified: None,
        connect: None,
        request: None,
        over_tls: false,
        port: 1,
        ..all
    };
    let networks = |text: &str| vec![text.parse::<Network>().unwrap()];
    for (fits, fits_not) in [
        (
            Conditions { ports: vec![1, 8883], ..Conditions::default() },
            Conditions { ports: vec![1883], ..Conditions::default() },
        ),
        (
            Conditions { sources: networks("10.1.0.0/16"), ..Conditions::default() },
            Conditions { sources: networks("10.2.0.0/16"), ..Conditions::default() },
        ),
        (
            Conditions { over_tls: Some(true), ..Conditions::default() },
            Conditions { over_tls: Some(false), ..Conditions::default() },
        ),
        (
            Conditions { server_names: patterns(&["us.*", "*.example.com"]), ..Conditions::default() },
            Conditions { server_names: patterns(&["example.com"]), ..Conditions::default() },
        ),
        (
            Conditions { certified: patterns(&["gateway-*"]), ..Conditions::default() },
            Conditions { certified: patterns(&["Gateway-*"]), ..Conditions::default() },
        ),
        (
            Conditions { client_ids: patterns(&["factory-*"]), ..Conditions::default() },
            Conditions { client_ids: patterns(&["factory"]), ..Conditions::default() },
        ),
        (
            Conditions { hosts: patterns(&["example.*"]), ..Conditions::default() },
            Conditions { hosts: patterns(&["example"]), ..Conditions::default() },
        ),
        (
            Conditions { paths: patterns(&["/api/*"]), ..Conditions::default() },
            Conditions { paths: patterns(&["/api"]), ..Conditions::default() },
        ),
        (
            Conditions { user_names: patterns(&["lelylan"]), ..Conditions::default() },
            Conditions { user_names: patterns(&["else"]), ..Conditions::default() },
        ),
        (
            Conditions { versions: vec![Version::V5], ..Conditions::default() },
            Conditions { versions: vec![Version::V31, Version::V311], ..Conditions::default() },
        ),
    ] {
        assert!(fits.hold(&all), "{fits:?}");
        assert!(!fits_not.hold(&all), "{fits_not:?}");
        let asks_more = fits.ports.is_empty() && fits.sources.is_empty();
        assert_eq!(fits.hold(&bare), !asks_more, "what is not known fits nothing: {fits:?}");
    }
    assert!(Conditions::default().hold(&bare));
}

#[test]
fn no_user_name_is_no_empty_one() {
    let when = Conditions { user_names: patterns(&["*"]), ..Conditions::default() };
    for (user, expected) in [(None, false), (Some(""), true), (Some("a"), true)] {
        assert_eq!(when.hold(&facts(Some(&connect("c", user)))), expected, "{user:?}");
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    let to = |backend: &str| Then::Backend(backend.to_owned());
    let rule = |ids: &[&str], then| Rule {
        when: Conditions { client_ids: patterns(ids), versions: vec![Version::V5], ..Conditions::default() },
        then,
    };
    let rules = Rules {
        in_order: vec![
            rule(&["bad-*"], Then::Refuse),
            rule(&["b*"], to("first")),
            rule(&["ba*"], to("never")),
        ],
        otherwise: to("others"),
    };
    for (id, expected) in
        [("bad-1", Then::Refuse), ("barn", to("first")), ("box", to("first")), ("else", to("others"))]
    {
        assert_eq!(*rules.choose(&facts(Some(&connect(id, None)))), expected, "{id}");
    }
    assert_eq!(rules.backends().collect::<Vec<_>>(), ["first", "never", "others"]);
}
