//! References to images, taken apart as Docker does.

/// `registry.example:5000/team/redis:7` in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference<'r> {
    /// With the registry, without the tag; a digest stays in it.
    pub(super) name: &'r str,
    /// `latest` where none is given, for no tag would mean all of them; empty beside a digest.
    pub(super) tag: &'r str,
}

impl<'r> Reference<'r> {
    pub(super) fn parse(reference: &'r str) -> Self {
        if reference.contains('@') {
            return Self { name: reference, tag: "" };
        }
        let last = reference.rfind('/').map_or(0, |slash| slash + 1);
        match reference[last..].rfind(':') {
            Some(colon) => Self { name: &reference[..last + colon], tag: &reference[last + colon + 1..] },
            None => Self { name: reference, tag: "latest" },
        }
    }

    /// Where it is pulled from.
    pub(super) fn registry(&self) -> &'r str {
        match self.name.split_once('/') {
            Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
            _ => "Docker Hub",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart() {
        let cases = [
            ("redis", "redis", "latest", "Docker Hub"),
            ("redis:7", "redis", "7", "Docker Hub"),
            ("lelylan/mqtt:1.2", "lelylan/mqtt", "1.2", "Docker Hub"),
            ("10.77.1.3:5000/redis", "10.77.1.3:5000/redis", "latest", "10.77.1.3:5000"),
            ("localhost/a/b:c", "localhost/a/b", "c", "localhost"),
            ("redis@sha256:0123", "redis@sha256:0123", "", "Docker Hub"),
        ];
        for (text, name, tag, registry) in cases {
            let reference = Reference::parse(text);
            assert_eq!(
                (reference.name, reference.tag, reference.registry()),
                (name, tag, registry),
                "{text}"
            );
        }
    }
}
