//! The terminal, for views that stay.
//!
//! Here lives [`Screen`]: the alternate screen, and keys as they are pressed. Invariant: the terminal
//! is as it was when this is dropped.

use std::{
    io::{self, IsTerminal, Read, Write},
    thread,
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use crate::reach::top::{Line, Style};

/// Alternate screen, no cursor; and back (xterm's ctlseqs: DECSET 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Columns where nobody says how many there are.
const COLUMNS: usize = 80;

/// How wide and high the terminal is, if standard output is one.
pub(crate) fn size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    // A serial line does not know.
    let known = |cells: u16, otherwise| if cells == 0 { otherwise } else { usize::from(cells) };
    Some((known(size.ws_col, COLUMNS), known(size.ws_row, 24)))
}

/// The width of what is printed once: the terminal's, or eighty.
pub(crate) fn width() -> usize {
    size().map_or(COLUMNS, |(width, _)| width)
}

/// Whether a view can stay.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The alternate screen.
pub(crate) struct Screen {
    before: Termios,
    /// Keys as they are pressed.
    pub(crate) keys: mpsc::UnboundedReceiver<u8>,
}

impl Screen {
    /// Takes the terminal over.
    pub(crate) fn enter() -> io::Result<Screen> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        let (pressed, keys) = mpsc::unbounded_channel();
        let screen = Screen { before, keys };
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        write!(io::stdout(), "{ENTER}")?;
        io::stdout().flush()?;
        // It ends with the process: nothing wakes a reader of a terminal.
        thread::Builder::new().name("keys".to_owned()).spawn(move || {
            for key in io::stdin().lock().bytes() {
                if !key.is_ok_and(|key| pressed.send(key).is_ok()) {
                    return;
                }
            }
        })?;
        Ok(screen)
    }

    /// Shows these lines and nothing else.
    pub(crate) fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            let style = match line.style {
                Style::Plain => "",
                Style::Heading => "\x1b[7m",
                Style::Warning => "\x1b[33m",
                Style::Alarm => "\x1b[31m",
            };
            if at > 0 {
                text += "\r\n";
            }
            text += &format!("{style}{}\x1b[0m\x1b[K", line.text);
        }
        text += "\x1b[J";
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no care.
        let _ = write!(io::stdout(), "{LEAVE}").and_then(|()| io::stdout().flush());
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
