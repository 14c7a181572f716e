//! How lists are written: as a table, as JSON, or by a template.
//!
//! Owns `--format`. A template's fields are those of the JSON, so there is one set of names. One that does not parse, or asks for a field that there is
//! none of, is refused with those that there are, whether or not there is anything to list.

use super::error::ClientError;
use crate::cli::Written;
use crate::output;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// As many digits of an id as tell things apart on one node.
const SHORT: usize = 13;

/// How a list is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For scripts: one line for each.
    Template(String),
}

/// A text that says no format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no format: table, json, and templates such as '{{{{ id }}}}' are known")]
pub(crate) struct NoFormat(String);

impl FromStr for Format {
    type Err = NoFormat;

    fn from_str(text: &str) -> Result<Self, NoFormat> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ if text.contains("{{") || text.contains("{%") => Ok(Self::Template(text.to_owned())),
            _ => Err(NoFormat(text.chars().take(200).collect())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Template(text) => text,
        })
    }
}

/// How long ids are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// As long as it takes.
    Short,
    /// All of them.
    Whole,
}

impl Ids {
    /// An id to show. The algorithm of an image's is left out where it is cut.
    pub(crate) fn show(self, id: &str) -> String {
        match self {
            Self::Whole => id.to_owned(),
            Self::Short => id.strip_prefix("sha256:").unwrap_or(id).chars().take(SHORT).collect(),
        }
    }
}

/// Something that is listed.
pub(crate) trait Row: Serialize + Default {
    /// Above the columns.
    const HEADINGS: &'static [&'static str];
    /// Its id, whole.
    fn id(&self) -> &str;
    /// Its lines in a table.
    fn cells(&self, ids: Ids) -> Vec<Vec<String>>;
}

/// Writes a list.
///
/// # Errors
/// [`ClientError::Template`], or what keeps it from being written.
pub(crate) fn show<R: Row>(rows: &[R], written: &Written) -> Result<(), ClientError> {
    let ids = if written.no_trunc { Ids::Whole } else { Ids::Short };
    if written.quiet {
        let text: String = rows.iter().map(|row| ids.show(row.id()) + "\n").collect();
        return Ok(output::print(&text)?);
    }
    match &written.format {
        Format::Json => print_json(rows),
        Format::Table => {
            let cells: Vec<Vec<String>> = rows.iter().flat_map(|row| row.cells(ids)).collect();
            Ok(output::print(&output::table(R::HEADINGS, &cells))?)
        }
        Format::Template(text) => {
            let known = fields(&serde_json::to_value(R::default())?);
            let template = Template::new(text, Some(&known))?;
            let lines = rows.iter().map(|row| template.render(&serde_json::to_value(row)?));
            Ok(output::print(&lines.collect::<Result<String, ClientError>>()?)?)
        }
    }
}

/// The members of an object.
pub(crate) fn fields(value: &Value) -> BTreeSet<String> {
    value.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect()
}

/// A template that parses.
pub(crate) struct Template {
    environment: Environment<'static>,
}

/// The name under which the one template is kept.
const NAME: &str = "--format";

impl Template {
    /// Parses one; `known` are the fields that it may ask for.
    ///
    /// # Errors
    /// [`ClientError::Template`].
    pub(crate) fn new(text: &str, known: Option<&BTreeSet<String>>) -> Result<Self, ClientError> {
        let listed = || known.map(|known| known.iter().cloned().collect::<Vec<_>>().join(", "));
        let refuse = |problem: String| ClientError::Template { problem, known: listed() };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // As in the other tools' formats, where a shell would not make a tab of it.
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        environment.add_template_owned(NAME, text).map_err(|error| {
            let hint = "fields are written {{ id }}, without a dot before them";
            refuse(format!("{error}; {hint}"))
        })?;
        let template = Self { environment };
        if let Some(known) = known {
            let mut asked: Vec<String> =
                template.get()?.undeclared_variables(false).into_iter().collect();
            asked.sort_unstable();
            if let Some(field) = asked.iter().find(|field| !known.contains(*field)) {
                return Err(refuse(format!("there is no field {field:?}")));
            }
        }
        Ok(template)
    }

    fn get(&self) -> Result<minijinja::Template<'_, '_>, ClientError> {
        self.environment
            .get_template(NAME)
            .map_err(|error| ClientError::Template { problem: error.to_string(), known: None })
    }

    /// The line for something.
    ///
    /// # Errors
    /// [`ClientError::Template`], with the fields that it has.
    pub(crate) fn render(&self, value: &Value) -> Result<String, ClientError> {
        let mut line = self
            .get()?
            .render(minijinja::Value::from(minijinja::value::Serde(value)))
            .map_err(|error| ClientError::Template {
            problem: error.to_string(),
            known: Some(fields(value).into_iter().collect::<Vec<_>>().join(", ")),
        })?;
        line.push('\n');
        Ok(line)
    }
}

/// One thing by a template, whose fields are the thing's.
///
/// # Errors
/// [`ClientError::Template`], or what keeps it from being written.
pub(crate) fn print_template(text: &str, value: &Value) -> Result<(), ClientError> {
    let template = Template::new(text, Some(&fields(value)))?;
    Ok(output::print(&template.render(value)?)?)
}

/// JSON for people and programs.
///
/// # Errors
/// What keeps it from being written.
pub(crate) fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<(), ClientError> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(output::print(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<String, String> {
        let row =
            serde_json::json!({ "id": "abc", "labels": { "app": "web" }, "tags": ["a", "b"] });
        Template::new(text, Some(&fields(&row)))
            .and_then(|template| template.render(&row))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_shows_fields_and_what_is_in_them() {
        for (template, line) in [
            ("{{ id }}", "abc\n"),
            ("{{ id }}\\t{{ labels.app }}", "abc\tweb\n"),
            ("{{ tags[1] }}{% for tag in tags %}-{{ tag }}{% endfor %}", "b-a-b\n"),
            ("{{ labels | tojson }}", "{\"app\": \"web\"}\n"),
            ("{% if labels.none is defined %}x{% else %}y{% endif %}", "y\n"),
        ] {
            assert_eq!(render(template).unwrap(), line, "{template}");
        }
    }

    #[test]
    fn a_template_that_can_not_be_is_refused_with_the_fields_that_there_are() {
        for template in ["{{ colour }}", "{{ id", "{{.ID}}", "{% for %}", "{{ labels.none }}"] {
            let refused = render(template).unwrap_err();
            assert!(refused.contains("id, labels, tags"), "{template}: {refused}");
        }
    }

    #[test]
    fn a_format_is_a_name_or_a_template() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert_eq!("{{ id }}".parse(), Ok(Format::Template("{{ id }}".to_owned())));
        let refused = "yaml".parse::<Format>().unwrap_err().to_string();
        assert!(refused.contains("yaml") && refused.contains("table, json"), "{refused}");
    }

    #[test]
    fn a_short_id_is_what_tells_it_apart() {
        assert_eq!(
            Ids::Short.show(&format!("sha256:{}", "ab".repeat(32))),
            "abababababab a".replace(' ', "")
        );
        assert_eq!(Ids::Whole.show("sha256:ab"), "sha256:ab");
    }
}
