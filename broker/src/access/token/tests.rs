use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of more than 32 bytes, as it must be";

fn rules() -> TokenRules {
    TokenRules {
        field: TokenField::Password,
        user_claim: "sub".to_owned(),
        issuer: None,
        audience: Vec::new(),
        leeway: Duration::from_secs(30),
        lists: None,
    }
}

fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn token(claims: &Value) -> String {
    signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET), claims)
}

fn checked(rules: &TokenRules, claims: &Value) -> Result<Identity, TokenError> {
    TokenKeys::of_secret(SECRET).unwrap().verify(rules, &token(claims), NOW)
}

fn wrong(claim: &str) -> TokenError {
    TokenError::Claim(claim.to_owned())
}

#[test]
fn a_good_token_names_a_user_until_its_end() {
    let found = checked(&rules(), &json!({ "sub": "d1", "exp": NOW + 10 })).unwrap();
    assert_eq!(found, Identity { user: "d1".to_owned(), ends: NOW + 40, lists: None });
    let named = TokenRules { user_claim: "device".to_owned(), ..rules() };
    let found = checked(&named, &json!({ "sub": "x", "device": "d2", "exp": NOW as f64 + 0.5 })).unwrap();
    assert_eq!(found.user, "d2");
}

#[test]
fn time() {
    for (claims, expected) in [
        (json!({ "sub": "d", "exp": NOW - 29 }), Ok(())),
        (json!({ "sub": "d", "exp": NOW - 30 }), Err(TokenError::Time)),
        (json!({ "sub": "d", "exp": NOW + 1, "nbf": NOW + 30 }), Ok(())),
        (json!({ "sub": "d", "exp": NOW + 1, "nbf": NOW + 31 }), Err(TokenError::Time)),
        (json!({ "sub": "d", "exp": u64::MAX }), Ok(())),
        (json!({ "sub": "d", "exp": NOW, "nbf": "x" }), Err(wrong("nbf"))),
    ] {
        assert_eq!(checked(&rules(), &claims).map(drop), expected, "{claims}");
    }
    for claims in [
        json!({ "sub": "d" }),
        json!({ "sub": "d", "exp": "soon" }),
        json!({ "exp": -1 }),
        json!({ "sub": "d", "exp": 1e300 }),
    ] {
        assert!(checked(&rules(), &claims).is_err(), "{claims}");
    }
}

#[test]
fn users() {
    for user in [json!(""), json!(7), json!(null), json!("a\nb"), json!("x".repeat(257)), json!(["d1"])] {
        assert!(checked(&rules(), &json!({ "sub": user, "exp": NOW })).is_err(), "{user}");
    }
    assert_eq!(checked(&rules(), &json!({ "exp": NOW })), Err(wrong("sub")));
}

#[test]
fn issuer_and_audience() {
    let strict =
        TokenRules { issuer: Some("us".into()), audience: vec!["mqtt".into(), "iot".into()], ..rules() };
    let with = |issuer: Value, audience: Value| {
        let mut claims = json!({ "sub": "d", "exp": NOW });
        for (name, value) in [("iss", issuer), ("aud", audience)] {
            if !value.is_null() {
                claims[name] = value;
            }
        }
        claims
    };
    assert!(checked(&strict, &with(json!("us"), json!("mqtt"))).is_ok());
    assert!(checked(&strict, &with(json!("us"), json!(["x", "iot"]))).is_ok());
    for (issuer, audience) in [
        (json!("them"), json!("mqtt")),
        (json!(null), json!("mqtt")),
        (json!("us"), json!("web")),
        (json!("us"), json!(null)),
        (json!("us"), json!([])),
        (json!(7), json!("mqtt")),
    ] {
        assert!(checked(&strict, &with(issuer.clone(), audience.clone())).is_err(), "{issuer} {audience}");
    }
    // RFC 7519: who is not named in `aud` must refuse the token.
    assert!(checked(&rules(), &with(json!("us"), json!("mqtt"))).is_err());
    assert!(checked(&rules(), &with(json!("us"), json!(null))).is_ok());
}

#[test]
fn lists() {
    let claims = ListClaims { publish: "pub".to_owned(), subscribe: "sub_to".to_owned() };
    let listed = TokenRules { lists: Some(claims), ..rules() };
    let found = checked(&listed, &json!({ "sub": "d", "exp": NOW, "pub": ["a/+"] })).unwrap();
    assert_eq!(found.lists, Lists::new(vec!["a/+".into()], Vec::new()));
    for odd in [json!("a"), json!([7]), json!(["a/#/b"]), json!({ "a": 1 })] {
        assert!(checked(&listed, &json!({ "sub": "d", "exp": NOW, "pub": odd })).is_err(), "{odd}");
    }
}

#[test]
fn each_kind_of_key_signs_with_its_own_algorithm() {
    let claims = json!({ "sub": "d", "exp": NOW });
    let pairs = [
        (Algorithm::RS256, KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()),
        (Algorithm::ES256, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()),
        (Algorithm::EdDSA, KeyPair::generate_for(&PKCS_ED25519).unwrap()),
    ];
    let mut keys = TokenKeys::default();
    for (_, pair) in &pairs {
        keys.add_public(pair.public_key_pem().as_bytes()).unwrap();
    }
    for (algorithm, pair) in &pairs {
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        let token = signed(*algorithm, &key.unwrap(), &claims);
        assert!(keys.verify(&rules(), &token, NOW).is_ok(), "{algorithm:?}");
        // Another key of the same kind has not signed it.
        let mut other = TokenKeys::default();
        let stranger = KeyPair::generate_for(pair.algorithm()).unwrap();
        other.add_public(stranger.public_key_pem().as_bytes()).unwrap();
        assert!(matches!(other.verify(&rules(), &token, NOW), Err(TokenError::Signature(_))));
        // The old and the new key may stand side by side.
        other.add_public(pair.public_key_pem().as_bytes()).unwrap();
        assert!(other.verify(&rules(), &token, NOW).is_ok());
        // The classic: the public key, which everybody has, used as a secret.
        let forged = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
        let forged = signed(Algorithm::HS256, &forged, &claims);
        assert!(matches!(keys.verify(&rules(), &forged, NOW), Err(TokenError::Signature(_))));
    }
}

#[test]
fn forged_tokens() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let keys = TokenKeys::of_secret(SECRET).unwrap();
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let claims = json!({ "sub": "admin", "exp": NOW });
    let fine = token(&claims);
    assert!(keys.verify(&rules(), &fine, NOW).is_ok());
    let (said, signature) = fine.rsplit_once('.').unwrap();
    for forged in [
        format!("{}.{}.", part(json!({ "alg": "none", "typ": "JWT" })), part(claims.clone())),
        format!("{}.{}.{signature}", part(json!({ "alg": "none" })), part(claims.clone())),
        format!("{}.{}.", part(json!({ "alg": "HS256" })), part(claims.clone())),
        format!(
            "{}.{}.{signature}",
            part(json!({ "alg": "HS256" })),
            part(json!({ "sub": "x", "exp": NOW }))
        ),
        format!("{}.{}.{signature}", part(json!({ "alg": "RS256" })), part(claims.clone())),
        format!("{said}."),
        format!("{said}.{}", &signature[1..]),
        said.to_owned(),
        format!("{fine}.x"),
        "eyJ..".to_owned(),
        String::new(),
        format!("{fine}{}", "A".repeat(LONGEST_TOKEN)),
    ] {
        assert!(keys.verify(&rules(), &forged, NOW).is_err(), "{forged}");
    }
    let other = EncodingKey::from_secret(b"another secret of more than 32 bytes, yes");
    let foreign = signed(Algorithm::HS256, &other, &claims);
    assert!(keys.verify(&rules(), &foreign, NOW).is_err());
    // The right secret, but an algorithm that was not agreed on.
    let stronger = signed(Algorithm::HS512, &EncodingKey::from_secret(SECRET), &claims);
    assert!(keys.verify(&rules(), &stronger, NOW).is_err());
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".to_owned()]);
    let critical = encode(&header, &claims, &EncodingKey::from_secret(SECRET)).unwrap();
    assert_eq!(keys.verify(&rules(), &critical, NOW), Err(TokenError::Critical));
}

#[test]
fn keys_that_are_none() {
    assert!(TokenKeys::of_secret(b"short").unwrap_err().contains("shorter"));
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    assert!(TokenKeys::of_secret(pair.public_key_pem().as_bytes()).unwrap_err().contains("PEM"));
    let large = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let two = format!("{}{}", pair.public_key_pem(), pair.public_key_pem());
    for (pem, what) in [
        (pair.serialize_pem(), "private key"),
        (large.public_key_pem(), "P-256"),
        (two, "one public key"),
        ("x".to_owned(), "one public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(), "no public key"),
    ] {
        let problem = TokenKeys::default().add_public(pem.as_bytes()).unwrap_err();
        assert!(problem.contains(what), "{problem}");
    }
    assert_eq!(format!("{:?}", TokenKeys::of_secret(SECRET).unwrap()), "TokenKeys { keys: 1, .. }");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}", parts in "eyJ[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
        let keys = TokenKeys::of_secret(SECRET).unwrap();
        prop_assert!(keys.verify(&rules(), &text, NOW).is_err());
        prop_assert!(keys.verify(&rules(), &parts, NOW).is_err());
    }
}
