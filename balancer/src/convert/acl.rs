//! ACLs and the conditions made of them → conditions of our rules. What cannot be said in exactly the same way is an
//! error: a rule must not take more clients than it did.

use std::collections::BTreeMap;

/// The keys of one rule, each with what it may be; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct When(pub(super) BTreeMap<&'static str, Vec<String>>);

/// Each name with the ways in which it holds.
pub(super) type Acls = BTreeMap<String, Vec<When>>;

/// More rules for one line are none that anybody reads.
const MANY: usize = 64;

/// What the words after `if` or `unless` come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// In any of these cases.
    In(Vec<When>),
    /// In all but these.
    NotIn(Vec<When>),
}

impl When {
    /// Whether the source alone decides.
    pub(super) fn is_source(&self) -> bool {
        self.0.len() == 1 && self.0.contains_key("source")
    }

    fn and(&self, other: &Self) -> Result<Self, String> {
        let mut both = self.clone();
        for (key, values) in &other.0 {
            if both.0.insert(key, values.clone()).is_some() {
                return Err(format!("asks twice about `{key}`, which a rule here can do once"));
            }
        }
        Ok(both)
    }
}

/// `acl NAME FETCH [FLAGS] VALUES…`: another way in which the name holds.
pub(super) fn define(acls: &mut Acls, words: &[String]) -> Result<(), String> {
    let (name, test) = words.split_first().ok_or("has no name")?;
    // A name of which one line was not understood means nothing any more: whoever uses it is told again.
    match (test_of(test), acls.get(name)) {
        (Ok(_), Some(ways)) if ways.is_empty() => {}
        (Ok(when), _) => acls.entry(name.clone()).or_default().push(when),
        (Err(what), _) => {
            acls.insert(name.clone(), Vec::new());
            return Err(what);
        }
    }
    Ok(())
}

/// The words after an action; none: it holds always.
pub(super) fn condition(words: &[String], acls: &Acls) -> Result<Holds, String> {
    let Some((key, rest)) = words.split_first() else { return Ok(Holds::In(vec![When::default()])) };
    let holds = terms(rest, acls)?;
    match (key.as_str(), holds) {
        ("if", holds) => Ok(holds),
        ("unless", Holds::In(when)) => Ok(Holds::NotIn(when)),
        ("unless", Holds::NotIn(when)) => Ok(Holds::In(when)),
        _ => Err(format!("`{key}` is not understood")),
    }
}

fn terms(words: &[String], acls: &Acls) -> Result<Holds, String> {
    let mut ways = Vec::new();
    let mut all = vec![When::default()];
    let mut negated_alone = None;
    let mut count = 0;
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word == "||" || word == "or" {
            ways.append(&mut all);
            all.push(When::default());
            continue;
        }
        count += 1;
        let (negated, name) = match word.strip_prefix('!') {
            Some("") => (true, words.next().unwrap_or_default()),
            Some(name) => (true, name),
            None => (false, word),
        };
        let one_of = if name == "{" {
            let test: Vec<String> =
                words.by_ref().take_while(|word| *word != "}").map(str::to_owned).collect();
            vec![test_of(&test)?]
        } else {
            named(name, acls)?
        };
        match (negated, one_of.as_slice()) {
            (false, _) => all = product(&all, &one_of)?,
            (true, [only]) if only.0.keys().eq(["tls"].iter()) => {
                let plain = When(BTreeMap::from([("tls", vec!["false".to_owned()])]));
                all = product(&all, &[plain])?;
            }
            (true, _) => negated_alone = Some(one_of),
        }
    }
    ways.append(&mut all);
    match negated_alone {
        None => Ok(Holds::In(ways)),
        Some(when) if count == 1 => Ok(Holds::NotIn(when)),
        Some(_) => Err("`!` has no counterpart here; put the opposite into an earlier rule".into()),
    }
}

fn named(name: &str, acls: &Acls) -> Result<Vec<When>, String> {
    match (name, acls.get(name)) {
        (_, Some(when)) if !when.is_empty() => Ok(when.clone()),
        ("TRUE", None) => Ok(vec![When::default()]),
        ("LOCALHOST", None) => Ok(vec![When(BTreeMap::from([("source", vec!["127.0.0.0/8".to_owned()])]))]),
        _ => Err(format!("the ACL `{}` has no counterpart", name.escape_debug())),
    }
}

fn product(left: &[When], right: &[When]) -> Result<Vec<When>, String> {
    let mut all = Vec::new();
    for left in left {
        for right in right {
            all.push(left.and(right)?);
        }
    }
    if all.len() > MANY { Err(format!("would be more than {MANY} rules")) } else { Ok(all) }
}

/// How a value is compared.
#[derive(Clone, Copy)]
enum Match {
    Exact,
    Beginning,
    End,
    Within,
}

fn test_of(words: &[String]) -> Result<When, String> {
    let (fetch, rest) = words.split_first().ok_or("asks nothing")?;
    let (key, mut how, folds) = key_of(fetch)?;
    let mut ignores_case = false;
    let mut values = Vec::new();
    let mut words = rest.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "-i" if values.is_empty() => ignores_case = true,
            "-n" if values.is_empty() => {}
            "--" if values.is_empty() => {}
            "-m" if values.is_empty() => how = how_of(words.next().unwrap_or_default())?,
            flag if values.is_empty() && flag.starts_with('-') => {
                return Err(format!("the flag `{flag}` has no counterpart"));
            }
            value => values.push(value.to_owned()),
        }
    }
    if ignores_case && !folds {
        return Err(format!("`-i`: `{key}` is compared letter by letter here"));
    }
    let values = match key {
        "tls" => vec!["true".to_owned()],
        _ if values.is_empty() => return Err("compares with nothing".into()),
        "source" => values,
        "port" => values.into_iter().map(port).collect::<Result<_, _>>()?,
        "version" => values.iter().map(|level| version(level)).collect::<Result<_, _>>()?,
        _ => values.into_iter().map(|value| pattern(value, how)).collect::<Result<_, _>>()?,
    };
    Ok(When(BTreeMap::from([(key, values)])))
}

/// Our key for what HAProxy fetches, how that compares, and whether large and small letters are the same here.
fn key_of(fetch: &str) -> Result<(&'static str, Match, bool), String> {
    if let Some(field) =
        fetch.split_once("mqtt_field_value(connect,").and_then(|(_, rest)| rest.strip_suffix(')'))
    {
        return match field.trim() {
            "client_identifier" => Ok(("client_id", Match::Exact, false)),
            "username" => Ok(("user_name", Match::Exact, false)),
            "protocol_version" => Ok(("version", Match::Exact, false)),
            other => Err(format!("no rule here asks about the CONNECT's `{other}`")),
        };
    }
    let (name, argument) =
        fetch.split_once('(').map_or((fetch, ""), |(name, rest)| (name, rest.trim_end_matches(')')));
    let (base, how) = [("_beg", Match::Beginning), ("_end", Match::End), ("_sub", Match::Within)]
        .into_iter()
        .find_map(|(end, how)| Some((name.strip_suffix(end)?, how)))
        .unwrap_or((name, Match::Exact));
    match base {
        "src" => Ok(("source", Match::Exact, true)),
        "dst_port" => Ok(("port", Match::Exact, true)),
        "ssl_fc" => Ok(("tls", Match::Exact, true)),
        "req.ssl_sni" | "req_ssl_sni" | "ssl_fc_sni" => Ok(("sni", how, true)),
        "ssl_c_s_dn" if argument.eq_ignore_ascii_case("cn") => Ok(("certificate", how, false)),
        "path" => Ok(("path", how, false)),
        "hdr" | "req.hdr" | "req.fhdr" if argument.eq_ignore_ascii_case("host") => Ok(("host", how, true)),
        // Its arguments, and what is made of it, may hold secrets.
        _ => Err(format!(
            "no rule here asks about `{}`",
            name.split(',').next().unwrap_or(name).escape_debug()
        )),
    }
}

fn how_of(word: &str) -> Result<Match, String> {
    match word {
        "str" => Ok(Match::Exact),
        "beg" => Ok(Match::Beginning),
        "end" => Ok(Match::End),
        "sub" => Ok(Match::Within),
        _ => Err("this comparison (`-m`) has no counterpart".into()),
    }
}

fn pattern(value: String, how: Match) -> Result<String, String> {
    if value.contains('*') {
        return Err("a `*` would stand for any characters here".into());
    }
    Ok(match how {
        Match::Exact => value,
        Match::Beginning => format!("{value}*"),
        Match::End => format!("*{value}"),
        Match::Within => format!("*{value}*"),
    })
}

fn port(value: String) -> Result<String, String> {
    if value.parse::<u16>().is_ok() { Ok(value) } else { Err(format!("`{value}`: name each port")) }
}

fn version(level: &str) -> Result<String, String> {
    match level {
        "3" => Ok("3.1".to_owned()),
        "4" => Ok("3.1.1".to_owned()),
        "5" => Ok("5".to_owned()),
        other => Err(format!("`{other}` is no version of MQTT")),
    }
}
