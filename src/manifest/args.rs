//! Raw arguments of `docker run`, as in the article's definitions, turned into the keys of a process.

use super::raw::{CapabilityKeys, Process, Scalar, UlimitKeys};
use crate::system::{Restart, Ulimit};

/// What the arguments say, and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub(super) ports: Vec<String>,
    /// The rest, in the shape of the keys; its `ports` are empty.
    pub(super) keys: Process,
    /// What is wrong, what to do.
    pub(super) problems: Vec<(String, Option<String>)>,
}

pub(super) fn parse(text: &str) -> Args {
    let mut args = Args::default();
    let Some(words) = shlex::split(text) else {
        args.wrong("a quotation mark is not closed", None);
        return args;
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            args.long(long, &mut words);
        } else if let Some(short) = word.strip_prefix('-') {
            args.short(short, &mut words);
        } else {
            args.bare(&word);
        }
    }
    args
}

/// Long names of the short flags that take a value.
fn long_name(short: char) -> Option<&'static str> {
    Some(match short {
        'e' => "env",
        'p' => "publish",
        'v' => "volume",
        'u' => "user",
        'm' => "memory",
        'l' => "label",
        _ => return None,
    })
}

impl Args {
    fn wrong(&mut self, what: impl Into<String>, hint: Option<&str>) {
        self.problems.push((what.into(), hint.map(str::to_owned)));
    }

    /// `--name value`, `--name=value`, or a flag.
    fn long(&mut self, long: &str, words: &mut impl Iterator<Item = String>) {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        match name {
            // Containers of a system always run in the background.
            "detach" => {}
            "interactive" | "tty" => self.wrong(format!("`--{name}` is for a terminal"), Some("take it out")),
            "rm" => self.wrong(
                "`--rm` would delete what an undo needs",
                Some("take it out; nsd removes what it replaced"),
            ),
            "privileged" | "init" | "read-only" | "publish-all" => {
                self.wrong(format!("`--{name}` is not understood"), None);
            }
            _ => match value.or_else(|| words.next()) {
                Some(value) => self.option(name, &value),
                None => self.wrong(format!("`--{name}` lacks its value"), None),
            },
        }
    }

    /// `-d`, `-p 1:1`, `-p1:1`, `-dp 1:1`.
    fn short(&mut self, short: &str, words: &mut impl Iterator<Item = String>) {
        for (at, flag) in short.char_indices() {
            match (flag, long_name(flag)) {
                ('d', _) => {}
                ('i' | 't', _) => self.wrong(format!("`-{flag}` is for a terminal"), Some("take it out")),
                (_, Some(name)) => {
                    let rest = short[at + flag.len_utf8()..].trim_start_matches('=');
                    let value = if rest.is_empty() { words.next() } else { Some(rest.to_owned()) };
                    match value {
                        Some(value) => self.option(name, &value),
                        None => self.wrong(format!("`-{flag}` lacks its value"), None),
                    }
                    return;
                }
                _ => return self.wrong(format!("`-{flag}` is not understood"), None),
            }
        }
    }

    fn option(&mut self, name: &str, value: &str) {
        match name {
            "env" => match value.split_once('=') {
                Some((key, value)) => {
                    self.keys.env.insert(key.to_owned(), Scalar::Text(value.to_owned()));
                }
                None => self.wrong(
                    format!("`-e {value}` lacks `=VALUE`"),
                    Some("a value from this shell: secrets = { x = { env = … } }"),
                ),
            },
            "publish" => self.ports.push(value.to_owned()),
            "volume" => self.keys.volumes.push(value.to_owned()),
            "user" => self.keys.user = Some(value.to_owned()),
            "memory" => self.keys.memory = Some(Scalar::Text(value.to_owned())),
            "label" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                self.keys.labels.insert(key.to_owned(), Scalar::Text(value.to_owned()));
            }
            "network" | "net" => self.keys.network = Some(value.to_owned()),
            "entrypoint" => self.keys.entrypoint = Some(vec![value.to_owned()]),
            "stop-timeout" => self.keys.stop_grace = Some(format!("{value}s")),
            "cap-add" => self.keys.capabilities.add.push(value.to_owned()),
            "cap-drop" => self.keys.capabilities.drop.push(value.to_owned()),
            "cpus" => match value.parse() {
                Ok(cpus) => self.keys.cpus = Some(cpus),
                Err(_) => self.wrong(format!("`{value}` is not a number of processors"), None),
            },
            "restart" => match restart(value) {
                Some(restart) => self.keys.restart = Some(restart),
                None => self.wrong(
                    format!("`{value}` is not when to restart"),
                    Some("no, on-failure, always, unless-stopped"),
                ),
            },
            "ulimit" => match ulimit(value) {
                Some((name, limit)) => {
                    self.keys.ulimits.insert(name, limit);
                }
                None => self.wrong(format!("`{value}` is not a limit such as `nofile=1024:4096`"), None),
            },
            "name" => self.wrong("nsd names containers itself", Some("take `--name` out")),
            "link" => self.wrong(
                "`--link` is not understood",
                Some("use `needs`, and `{{ instances.NAME[0].address }}` for the address"),
            ),
            "env-file" => {
                self.wrong("`--env-file` is not understood", Some("write the variables into `env`"));
            }
            _ => self.wrong(format!("`--{name}` is not understood"), None),
        }
    }

    /// The article itself forgets a `-p` once.
    fn bare(&mut self, word: &str) {
        let port = word.split(':').all(|part| part.parse::<u16>().is_ok());
        let hint = if port { Some(format!("write `-p {word}`")) } else { None };
        self.problems.push((format!("`{word}` belongs to no flag"), hint));
    }
}

fn restart(value: &str) -> Option<Restart> {
    Some(match value.split_once(':').map_or(value, |(policy, _)| policy) {
        "no" => Restart::No,
        "on-failure" => Restart::OnFailure,
        "always" => Restart::Always,
        "unless-stopped" => Restart::UnlessStopped,
        _ => return None,
    })
}

fn ulimit(value: &str) -> Option<(String, UlimitKeys)> {
    let (name, limits) = value.split_once('=')?;
    let limit = match limits.split_once(':') {
        Some((soft, hard)) => UlimitKeys::Each(Ulimit { soft: soft.parse().ok()?, hard: hard.parse().ok()? }),
        None => UlimitKeys::Both(limits.parse().ok()?),
    };
    Some((name.to_owned(), limit))
}

/// Keys that stand in the file win; lists are joined.
pub(super) fn merge(keys: &mut Process, args: Process) {
    for (name, value) in args.env {
        keys.env.entry(name).or_insert(value);
    }
    for (name, value) in args.labels {
        keys.labels.entry(name).or_insert(value);
    }
    for (name, value) in args.ulimits {
        keys.ulimits.entry(name).or_insert(value);
    }
    keys.volumes.extend(args.volumes);
    let CapabilityKeys { add, drop } = args.capabilities;
    keys.capabilities.add.extend(add);
    keys.capabilities.drop.extend(drop);
    keys.user = keys.user.take().or(args.user);
    keys.memory = keys.memory.take().or(args.memory);
    keys.cpus = keys.cpus.or(args.cpus);
    keys.network = keys.network.take().or(args.network);
    keys.entrypoint = keys.entrypoint.take().or(args.entrypoint);
    keys.stop_grace = keys.stop_grace.take().or(args.stop_grace);
    keys.restart = keys.restart.or(args.restart);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let args = parse(text);
        let env: Vec<String> = args.keys.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let problems: Vec<&str> = args.problems.iter().map(|(what, _)| what.as_str()).collect();
        format!("e{env:?} p{:?} v{:?} !{problems:?}", args.ports, args.keys.volumes).replace('"', "")
    }

    #[test]
    fn arguments_become_keys() {
        let table = [
            // The article's three.
            (
                "-e \"DEBUG=lelylan\" -e \"REDIS_HOST=178.62.31.9\" -p 1883:1883 -d",
                "e[DEBUG=lelylan, REDIS_HOST=178.62.31.9] p[1883:1883] v[] ![]",
            ),
            (
                "-p 80:80 -p 1883:1883 -p 8883:8883 -v /certs:/certs/ -d",
                "e[] p[80:80, 1883:1883, 8883:8883] v[/certs:/certs/] ![]",
            ),
            ("-d -p 6379:6379", "e[] p[6379:6379] v[] ![]"),
            // Its slip: a `-p` is missing.
            ("-p 80:80 1883:1883", "e[] p[80:80] v[] ![`1883:1883` belongs to no flag]"),
            ("-dp 1:1 --publish=2:2 --publish 3:3 -p4:4", "e[] p[1:1, 2:2, 3:3, 4:4] v[] ![]"),
            ("-e 'A=b c' -e B=x=y", "e[A=b c, B=x=y] p[] v[] ![]"),
            ("-e A", "e[] p[] v[] ![`-e A` lacks `=VALUE`]"),
            ("-p", "e[] p[] v[] ![`-p` lacks its value]"),
            ("--gpus all -x", "e[] p[] v[] ![`--gpus` is not understood, `-x` is not understood]"),
            ("-e 'A=b", "e[] p[] v[] ![a quotation mark is not closed]"),
            ("-it", "e[] p[] v[] ![`-i` is for a terminal, `-t` is for a terminal]"),
            ("", "e[] p[] v[] ![]"),
        ];
        for (text, expected) in table {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn the_rest_of_the_flags() {
        let args = parse(
            "--restart=on-failure:5 --ulimit nofile=1:2 --memory 64m --cpus 1.5 --net host -u 5 --cap-add A --cap-drop=B \
             -l x=y --entrypoint /e --stop-timeout 5",
        );
        assert_eq!(args.problems, []);
        let keys = args.keys;
        assert_eq!((keys.restart, keys.cpus), (Some(Restart::OnFailure), Some(1.5)));
        assert_eq!((keys.network.as_deref(), keys.user.as_deref()), (Some("host"), Some("5")));
        assert_eq!(
            (keys.capabilities.add, keys.capabilities.drop),
            (vec!["A".to_owned()], vec!["B".to_owned()])
        );
        assert_eq!(keys.stop_grace.as_deref(), Some("5s"));
        assert!(matches!(keys.ulimits["nofile"], UlimitKeys::Each(Ulimit { soft: 1, hard: 2 })));
    }
}
