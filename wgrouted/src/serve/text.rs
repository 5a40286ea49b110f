//! Prometheus' text format, version 0.0.4.
//!
//! Here lives [`Exposition`], which writes families of samples and knows none of them. The format is a
//! dozen lines of code; a registry that holds a copy of every figure would cost more than it gives.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// The format's media type.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a figure behaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// It only grows, and starts anew with the daemon.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// Writes metrics.
pub(super) struct Exposition<'w, W> {
    out: &'w mut W,
    name: &'static str,
}

impl<'w, W: Write> Exposition<'w, W> {
    pub(super) fn new(out: &'w mut W) -> Self {
        Exposition { out, name: "" }
    }

    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> io::Result<()> {
        self.name = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
    }

    /// A sample of the family.
    pub(super) fn sample(&mut self, labels: &Labels, value: impl Display) -> io::Result<()> {
        let (name, out) = (self.name, &mut self.out);
        if labels.0.is_empty() {
            writeln!(out, "{name} {value}")
        } else {
            writeln!(out, "{name}{{{}}} {value}", labels.0)
        }
    }

    /// A family of one sample without labels.
    pub(super) fn single(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        value: impl Display,
    ) -> io::Result<()> {
        self.family(name, kind, help)?;
        self.sample(&Labels::default(), value)
    }
}

/// Names and values that tell samples apart, as they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels(String);

impl Labels {
    /// With one more.
    pub(super) fn with(&self, name: &str, value: &str) -> Labels {
        let mut text = self.0.clone();
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
        Labels(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_label_holds_it_stays_one_label() {
        let mut out = Vec::new();
        let mut text = Exposition::new(&mut out);
        text.family("a_total", Kind::Counter, "Things.").unwrap();
        text.sample(&Labels::default().with("x", "a\"b\\c\nd").with("y", ""), 7).unwrap();
        text.single("b", Kind::Gauge, "Other.", 0.5).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 7\n\
             # HELP b Other.\n# TYPE b gauge\nb 0.5\n"
        );
    }
}
