//! Templates: the embedded ones, and tera behind one type that tells template, line and reason of a mistake.

use std::collections::BTreeMap;

use tera::{ErrorKind, ReportError, Tera};

use crate::manifest::Problem;

/// Templates that come with `nsd`; a file of the same name in `templates/` beside `system.toml` takes its place.
const EMBEDDED: [(&str, &str); 4] = [
    ("balancer.toml.tera", include_str!("../templates/balancer.toml.tera")),
    ("broker.toml.tera", include_str!("../templates/broker.toml.tera")),
    ("haproxy.cfg.tera", include_str!("../templates/haproxy.cfg.tera")),
    ("redis.conf.tera", include_str!("../templates/redis.conf.tera")),
];

/// Text of a template that comes with `nsd`.
pub fn embedded(name: &str) -> Option<&'static str> {
    EMBEDDED.iter().find(|(known, _)| *known == name).map(|&(_, text)| text)
}

/// Names of the templates that come with `nsd`.
pub fn embedded_names() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|&(name, _)| name)
}

/// What `nsd sys create` writes: path in the new folder, text.
pub fn new_system(name: &str, namespace: &str, id: &str) -> Vec<(&'static str, String)> {
    let system = include_str!("../templates/new-system/system.toml.tera");
    let readme = include_str!("../templates/new-system/README.md.tera");
    let filled =
        |text: &str| text.replace("%NAME%", name).replace("%NAMESPACE%", namespace).replace("%ID%", id);
    vec![
        ("system.toml", filled(system)),
        ("README.md", filled(readme)),
        (".gitignore", include_str!("../templates/new-system/gitignore").to_owned()),
    ]
}

/// Parsed templates and strings in place. Nothing is escaped: the results are settings files, not web pages.
pub(crate) struct Templates {
    tera: Tera,
}

/// Why something did not render.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RenderError {
    /// Template file, empty for a string in place.
    pub(crate) template: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) what: String,
}

impl RenderError {
    /// The problem in a template file, which names the file instead of a key.
    pub(crate) fn problem(self) -> Problem {
        Problem { line: self.line, column: self.column, at: self.template, what: self.what, hint: None }
    }
}

impl Templates {
    /// Parses all; mistakes of all of them at once.
    pub(crate) fn new(files: &BTreeMap<String, String>) -> (Self, Vec<RenderError>) {
        let mut tera = Tera::new();
        tera.autoescape_on(Vec::<&'static str>::new());
        let Err(first) = tera.add_raw_templates(files) else { return (Self { tera }, Vec::new()) };
        // Together they may include each other; one that is wrong by itself is wrong in any company.
        let alone = |(name, text): (&String, &String)| {
            let error = Tera::new().add_raw_template(name, text).err()?;
            matches!(error.kind(), ErrorKind::SyntaxError(_)).then(|| error_of(name, &error))
        };
        let mut errors: Vec<RenderError> = files.iter().filter_map(alone).collect();
        if errors.is_empty() {
            errors.push(error_of("", &first));
        }
        (Self { tera }, errors)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tera.contains_template(name)
    }

    pub(crate) fn file(&self, name: &str, context: &tera::Context) -> Result<String, RenderError> {
        self.tera.render(name, context).map_err(|error| error_of(name, &error))
    }

    /// A string of `system.toml`.
    pub(crate) fn text(&self, text: &str, context: &tera::Context) -> Result<String, RenderError> {
        if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
            return Ok(text.to_owned());
        }
        self.tera.render_str(text, context, false).map_err(|error| error_of("", &error))
    }
}

fn error_of(template: &str, error: &tera::Error) -> RenderError {
    let (place, what) = match error.kind() {
        ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => {
            (Some(report), report.message().to_owned())
        }
        other => (None, other.to_string()),
    };
    let named = place.map(|report| report.filename()).filter(|name| !name.is_empty() && !template.is_empty());
    let position = |report: &ReportError| (report.span().start_line.max(1), report.span().start_col + 1);
    let (line, column) = place.map_or((1, 1), |report| position(report));
    RenderError { template: named.unwrap_or(template).to_owned(), line, column, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_template_and_line() {
        let files = BTreeMap::from([
            ("a.tera".to_owned(), "fine\n{{ a. }}\n".to_owned()),
            ("b.tera".to_owned(), "\n\n{% if %}\n".to_owned()),
            ("c.tera".to_owned(), "{{ x }}".to_owned()),
        ]);
        let (_, errors) = Templates::new(&files);
        let places: Vec<(String, usize)> = errors.iter().map(|e| (e.template.clone(), e.line)).collect();
        assert_eq!(places, [("a.tera".to_owned(), 2), ("b.tera".to_owned(), 3)]);
    }

    #[test]
    fn unknown_names_are_told_with_their_line() {
        let files = BTreeMap::from([("a.tera".to_owned(), "1\n2\n{{ x.y }}".to_owned())]);
        let (templates, errors) = Templates::new(&files);
        assert_eq!(errors, []);
        let error = templates.file("a.tera", &tera::Context::new()).unwrap_err();
        assert_eq!((error.template.as_str(), error.line), ("a.tera", 3));
    }

    #[test]
    fn nothing_is_escaped() {
        let (templates, _) = Templates::new(&BTreeMap::new());
        let mut context = tera::Context::new();
        context.insert("x", "<\"&'>");
        assert_eq!(templates.text("{{ x }}", &context).unwrap(), "<\"&'>");
    }
}
