//! TOML with locations: a document read table by table, every error collected where it is.
//!
//! Here live [`Section`] and [`Report`], which know TOML but no key of the configuration. A
//! derived deserializer would stop at the first error and does not know the way to a key, so
//! tables are taken apart by hand. Invariant: whatever is wrong in a section is reported exactly
//! once, and a key that nobody asked for is wrong.

use std::cell::RefCell;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::{ConfigError, Position, Problem};

/// A value and the byte offset at which it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) at: usize,
    pub(super) value: T,
}

/// The errors found so far.
pub(super) struct Report<'t> {
    text: &'t str,
    errors: RefCell<Vec<(usize, String, Problem)>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Report { text, errors: RefCell::default() }
    }

    pub(super) fn add(&self, at: usize, key: impl Into<String>, problem: impl Into<Problem>) {
        self.errors.borrow_mut().push((at, key.into(), problem.into()));
    }

    /// The line of an offset, for an error that refers to another place.
    pub(super) fn line(&self, at: usize) -> usize {
        Position::of(self.text, at).line
    }

    fn len(&self) -> usize {
        self.errors.borrow().len()
    }

    /// The errors in file order.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|(at, ..)| *at);
        let located = |(at, key, problem)| {
            let position = Some(Position::of(self.text, at));
            ConfigError { position, key, problem }
        };
        errors.into_iter().map(located).collect()
    }
}

/// A table of the document. Keys are taken out of it; what remains at the end is unknown.
pub(super) struct Section<'r, 't> {
    report: &'r Report<'t>,
    /// The names of the tables down to this one.
    path: String,
    /// Where it begins.
    pub(super) at: usize,
    table: DeTable<'t>,
    known: Vec<&'static str>,
    /// How many errors were known before this section was opened.
    errors_before: usize,
}

impl<'r, 't> Section<'r, 't> {
    /// Parses the text; `None` if it is not TOML. Nothing is read from a text with syntax errors,
    /// for what was recovered may not be what was meant.
    pub(super) fn document(report: &'r Report<'t>) -> Option<Self> {
        let (document, errors) = DeTable::parse_recoverable(report.text);
        if errors.is_empty() {
            return Some(Section::new(report, String::new(), 0, document.into_inner()));
        }
        for error in errors {
            let span = error.span().unwrap_or_default();
            let unexpected = report.text.get(span.clone()).unwrap_or_default().trim();
            let problem = match unexpected.lines().next() {
                Some(line) => format!("{}: `{line}`", error.message()),
                None => error.message().to_owned(),
            };
            report.add(span.start, "", Problem::Syntax(problem));
        }
        None
    }

    fn new(report: &'r Report<'t>, path: String, at: usize, table: DeTable<'t>) -> Self {
        Section { report, path, at, table, known: Vec::new(), errors_before: report.len() }
    }

    /// The full name of one of this section's keys.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn remove(&mut self, key: &'static str) -> Option<At<DeValue<'t>>> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        Some(At { at: value.span().start, value: value.into_inner() })
    }

    fn fail(&self, at: usize, key: &str, problem: Problem) {
        self.report.add(at, self.key(key), problem);
    }

    /// Takes a value; one that cannot be read is reported and counts as absent.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        let At { at, value } = self.remove(key)?;
        match read(&value) {
            Ok(value) => Some(At { at, value }),
            Err(problem) => {
                self.fail(at, key, problem);
                None
            }
        }
    }

    /// Whether something is written for a key.
    pub(super) fn holds(&self, key: &'static str) -> bool {
        self.table.contains_key(key)
    }

    /// Takes a value, or a list of them; what cannot be read is reported and left out.
    pub(super) fn one_or_more<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Vec<At<T>> {
        match self.table.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.list(key, None, read).unwrap_or_default(),
            _ => self.take(key, read).into_iter().collect(),
        }
    }

    /// Takes a value that must be there, such as in the example.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        example: &'static str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        if !self.table.contains_key(key) {
            self.fail(self.at, key, Problem::Missing { example });
        }
        self.take(key, read)
    }

    /// Takes a list; elements that cannot be read are reported and left out. With `empty`, a list
    /// without elements is an error that this sentence mends.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        empty: Option<&'static str>,
        read: impl Fn(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<Vec<At<T>>> {
        let At { at, value } = self.remove(key)?;
        let DeValue::Array(elements) = value else {
            let expected = "a list in brackets";
            self.fail(at, key, Problem::Type { expected, found: type_name(&value) });
            return None;
        };
        if let (Some(remedy), true) = (empty, elements.is_empty()) {
            self.fail(at, key, Problem::EmptyList { remedy });
        }
        let mut list = Vec::with_capacity(elements.len());
        for element in elements {
            let at = element.span().start;
            match read(element.get_ref()) {
                Ok(value) => list.push(At { at, value }),
                Err(problem) => self.fail(at, key, problem),
            }
        }
        Some(list)
    }

    /// Takes a table; one that is absent is empty.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'r, 't> {
        self.table(key)
            .unwrap_or_else(|| Section::new(self.report, self.key(key), self.at, DeTable::new()))
    }

    /// Takes a table; something else, which is reported, counts as an empty one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Section<'r, 't>> {
        let At { at, value } = self.remove(key)?;
        let table = match value {
            DeValue::Table(table) => table,
            other => {
                let expected = "a table in single brackets";
                self.fail(at, key, Problem::Type { expected, found: type_name(&other) });
                DeTable::new()
            }
        };
        Some(Section::new(self.report, self.key(key), at, table))
    }

    /// Takes a list of tables (`expected` says how they are written) and reads each of them;
    /// `None` if it is something else, which is reported.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(Section<'r, 't>) -> T,
    ) -> Option<Vec<T>> {
        let path = self.key(key);
        let Some(At { at, value }) = self.remove(key) else { return Some(Vec::new()) };
        let DeValue::Array(elements) = value else {
            self.fail(at, key, Problem::Type { expected, found: type_name(&value) });
            return None;
        };
        let mut sections = Vec::new();
        for element in elements {
            let at = element.span().start;
            match Spanned::into_inner(element) {
                DeValue::Table(table) => {
                    sections.push(read(Section::new(self.report, path.clone(), at, table)));
                }
                other => self.fail(at, key, Problem::Type { expected, found: type_name(&other) }),
            }
        }
        Some(sections)
    }

    /// Reports the keys that nobody took. Whether the section, with all inside it, is free of
    /// errors.
    pub(super) fn finish(self) -> bool {
        for key in self.table.keys() {
            let problem = Problem::UnknownKey { known: self.known.clone() };
            self.fail(key.span().start, key.get_ref(), problem);
        }
        self.report.len() == self.errors_before
    }
}

/// What a value is, in TOML's words.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
