//! Lines of a configuration → words, with HAProxy's quotes, escapes and comments.

use std::fmt::Write;

use nsd_edge::config::Problem;

/// A line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: usize,
    /// At least one.
    words: Vec<String>,
}

impl Line {
    pub(super) fn key(&self) -> &str {
        &self.words[0]
    }

    pub(super) fn rest(&self) -> &[String] {
        &self.words[1..]
    }

    /// As far as it may be shown: the key, and the words behind it that are names. Anything else may be a secret.
    pub(super) fn shown(&self) -> String {
        let names = match self.key() {
            "server" | "tcp-request" | "tcp-response" => 2,
            "acl"
            | "balance"
            | "bind"
            | "capture"
            | "cookie"
            | "default_backend"
            | "filter"
            | "http-check"
            | "http-request"
            | "http-response"
            | "http-after-response"
            | "maxconn"
            | "mode"
            | "option"
            | "presetenv"
            | "redirect"
            | "server-template"
            | "setenv"
            | "stats"
            | "stick"
            | "tcp-check"
            | "timeout"
            | "unsetenv"
            | "use-server"
            | "use_backend" => 1,
            _ => 0,
        };
        let mut shown = self.key().escape_debug().to_string();
        for word in self.rest().iter().take(names) {
            // Where it is more than a name, only what that is called.
            let end = word.find(|c: char| !c.is_alphanumeric() && !"-_.:,/*[]@".contains(c));
            let name = &word[..end.unwrap_or(word.len())];
            let _ = write!(shown, " {name}");
            if name.len() < word.len() {
                break;
            }
        }
        if shown.len() < self.words.iter().map(|word| word.len() + 1).sum::<usize>() - 1 {
            shown.push_str(" …");
        }
        shown
    }
}

/// An error: the file is not written in HAProxy's way.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Result<Line, Problem>> + '_ {
    text.lines().enumerate().filter_map(|(at, line)| {
        let number = at + 1;
        match words(line) {
            Ok(words) if words.is_empty() => None,
            Ok(words) => Some(Ok(Line { number, words })),
            Err(what) => Some(Err(Problem { line: number, what: what.to_owned() })),
        }
    })
}

fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => {
                let escaped = chars.next().ok_or("ends in a backslash")?;
                word.get_or_insert_default().push(escaped);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) if c.is_control() => return Err("no haproxy.cfg: it holds control characters"),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

/// HAProxy's times: a number with a unit, milliseconds without one. `None`: no time that settings here can say.
pub(super) fn time(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "us" => number.div_ceil(1000),
        "" | "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "d" => number.checked_mul(86_400_000)?,
        _ => return None,
    };
    let longest = 86_400_000;
    if !(1..=longest).contains(&millis) {
        return None;
    }
    Some(if millis % 1000 == 0 { format!("{}s", millis / 1000) } else { format!("{millis}ms") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escapes_and_comments() {
        for (line, expected) in [
            ("  bind *:80 # all", &["bind", "*:80"][..]),
            ("a 'b c' \"d \\\" e\" f\\ g", &["a", "b c", "d \" e", "f g"]),
            ("# nothing", &[]),
            ("a \"\" b", &["a", "", "b"]),
            ("a\\#b#c", &["a#b"]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        assert!(words("a 'b").is_err() && words("a\\").is_err() && words("\0").is_err());
    }

    #[test]
    fn times_have_milliseconds_without_a_unit() {
        for (text, expected) in
            [("5000", Some("5s")), ("50ms", Some("50ms")), ("3h", Some("10800s")), ("1500us", Some("2ms"))]
        {
            assert_eq!(time(text).as_deref(), expected, "{text}");
        }
        for text in ["0", "", "x", "2d", "5 s", "99999999999999999999", "18446744073709551615h"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
