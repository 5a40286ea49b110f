//! The `wgrouted` command: parse, do, exit status.
//!
//! Exit status: 0 success, 1 failure at run time, 2 wrong usage or configuration.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};
use ebpf_xdp::parse::protocol;
use serde::de::DeserializeOwned;
use wgrouted::{
    cleanup,
    cli::{
        self, Check, Cleanup, Cli, Command, Completions, Doctor, Explain, FilterCommand, Global,
        Man, Plan, Run, Show, View,
    },
    config::{self, Config, ConfigErrors, Names, defaults},
    core::{
        exits::{iprule::IpRule, status::ExitsStatus},
        report::{PeerRow, RouteRow},
    },
    daemon::{self, Options, RunError, recording},
    doctor, exits,
    explain::{self, ExplainError, Informant, Labels, question::QuestionError},
    filter, live, oneshot,
    reach::list,
    serve::{
        client::{Client, ClientError},
        filter::{TestAnswer, TestQuery},
    },
    show,
    source::netns::{self, EnterError},
};

/// Wrong usage or configuration; also clap's own status for usage errors.
const EXIT_USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Run(RunError),
    #[error(transparent)]
    Netns(#[from] EnterError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Cleanup(#[from] cleanup::CleanupError),
    #[error(transparent)]
    Live(#[from] live::LiveError),
    #[error("the daemon's answer is not understood, it may be of another version: {0}")]
    Answer(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Question(QuestionError),
    #[error(transparent)]
    Explain(ExplainError),
    /// The packet gets nowhere, which has been told.
    #[error("no way")]
    NoWay,
}

impl From<ExplainError> for Failure {
    fn from(error: ExplainError) -> Self {
        match error {
            ExplainError::Question(error) => Failure::Question(error),
            other => Failure::Explain(other),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Config(errors) => Failure::Config(errors),
            other => Failure::Run(other),
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // `wgrouted man | head` is no failure.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        // They name their file themselves, one line each.
        Err(Failure::Config(errors)) => {
            eprintln!("{errors}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Question(error)) => {
            eprintln!("wgrouted: {error}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::NoWay) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("wgrouted: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    if let Some(name) = &global.netns {
        netns::enter(name)?;
    }
    match command {
        Command::Run(Run { selection, record, log }) => {
            let source = selection.source();
            let runtime_dir = global.runtime_dir;
            Ok(daemon::run(&Options { source, runtime_dir, log, record })?)
        }
        Command::Check(args) => check(&args),
        Command::Plan(args) => plan(&global, &args),
        Command::Show(args) => show_view(&global, &args),
        Command::Peers(args) => peers(&global, &args),
        Command::Watch(args) => watch(&global, &args),
        Command::Top(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (client, interface) = (client(&global), args.interface.as_deref());
            Ok(runtime.block_on(live::top(&client, interface, args.sort, args.once))?)
        }
        Command::Exits(args) => show_exits(&global, &args),
        Command::Enforce(args) => {
            let config = Config::load(&args.config).map_err(Failure::Config)?;
            let configured = config.daemon.runtime_dir.clone();
            Ok(daemon::enforce(&global.runtime_dir.unwrap_or(configured), config)?)
        }
        Command::Explain(args) => explain(&global, &args),
        Command::Cleanup(args) => clean_up(&global, &args),
        Command::Doctor(args) => doctor(global, &args),
        Command::Resync => ask(client(&global).post("/v1/resync")).map(drop),
        Command::Replay(cli::Replay { file }) => {
            let mut out = BufWriter::new(io::stdout().lock());
            recording::replay(&file, &mut out)?;
            Ok(out.flush()?)
        }
        Command::Filter(cli::Filter { command }) => match command {
            FilterCommand::Check(args) => filter_check(&args),
            FilterCommand::Show(args) => filter_show(&global, &args),
            FilterCommand::Watch(args) => filter_watch(&global, &args),
            FilterCommand::Test(args) => filter_test(&global, &args),
        },
        Command::Completions(args) => completions(&args),
        Command::Man(args) => man(&args),
    }
}

fn clean_up(global: &Global, args: &Cleanup) -> Result<(), Failure> {
    let config = args.selection.source().load()?;
    let directory = config_runtime_dir(global, &config);
    let removed = cleanup::cleanup(&config, &directory, args.dry_run)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &removed)?;
        writeln!(out)?;
    } else if removed.is_empty() {
        writeln!(out, "nothing to remove")?;
    } else {
        for line in &removed {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out.flush()?)
}

/// Exits by itself if something fails: that is no failure of the command.
fn doctor(global: Global, args: &Doctor) -> Result<(), Failure> {
    let options = doctor::Options {
        source: args.selection.source(),
        asked: !args.selection.is_default(),
        runtime_dir: global.runtime_dir,
        netns: global.netns,
    };
    let report = doctor::run(&options);
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        doctor::view::print(&mut out, &report, args.verbose)?;
    }
    out.flush()?;
    if report.count.failures > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn runtime_dir(global: &Global) -> PathBuf {
    global.runtime_dir.clone().unwrap_or_else(|| defaults::RUNTIME_DIR.into())
}

fn client(global: &Global) -> Client {
    Client::new(&runtime_dir(global))
}

/// Waits for an answer of the daemon.
fn ask<T>(question: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(question)?)
}

fn get<T: DeserializeOwned>(global: &Global, resource: &str) -> Result<T, Failure> {
    Ok(serde_json::from_slice(&ask(client(global).get(resource))?)?)
}

fn resource(name: &str, query: &[(&str, &str)]) -> String {
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    format!("/v1/{name}?{query}")
}

fn check(args: &Check) -> Result<(), Failure> {
    let summary = checked(args, config::check(&args.config))?;
    if args.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(io::stdout(), "{summary}")?;
    }
    Ok(())
}

fn filter_check(args: &Check) -> Result<(), Failure> {
    let report = filter::check::Check::of(&checked(args, Config::load(&args.config))?);
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        filter::check::print(&mut out, &report)?;
    }
    Ok(out.flush()?)
}

fn show_exits(global: &Global, args: &cli::Exits) -> Result<(), Failure> {
    let answer = ask(client(global).get("/v1/exits"))?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        out.write_all(&answer)?;
        writeln!(out)?;
    } else {
        exits::view::print(&mut out, &serde_json::from_slice(&answer)?)?;
    }
    Ok(out.flush()?)
}

fn peers(global: &Global, args: &cli::Only) -> Result<(), Failure> {
    let answer = ask(client(global).get(&narrowed("reachability", args)))?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        out.write_all(&answer)?;
        writeln!(out)?;
    } else {
        list::print(&mut out, &serde_json::from_slice(&answer)?)?;
    }
    Ok(out.flush()?)
}

/// Ends with the daemon, or when nobody reads any more.
fn watch(global: &Global, args: &cli::Only) -> Result<(), Failure> {
    let mut events = live::Events::default();
    let print = |data: &[u8]| -> io::Result<()> {
        let mut out = io::stdout().lock();
        for event in events.take(data) {
            if args.json {
                out.write_all(&event)?;
                writeln!(out)?;
            } else {
                list::print_event(&mut out, &serde_json::from_slice(&event)?)?;
            }
        }
        out.flush()
    };
    let resource = narrowed("events", args);
    Ok(ask(async { client(global).follow(&resource, print).await })??)
}

fn narrowed(name: &str, args: &cli::Only) -> String {
    let query: Vec<(&str, &str)> =
        args.interface.iter().map(|interface| ("interface", interface.as_str())).collect();
    resource(name, &query)
}

fn filter_show(global: &Global, args: &cli::Only) -> Result<(), Failure> {
    let answer = ask(client(global).get(&narrowed("filter", args)))?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        out.write_all(&answer)?;
        writeln!(out)?;
    } else {
        filter::view::print(&mut out, &serde_json::from_slice(&answer)?)?;
    }
    Ok(out.flush()?)
}

/// Ends with the daemon, or when nobody reads any more.
fn filter_watch(global: &Global, args: &cli::Only) -> Result<(), Failure> {
    let mut pending = Vec::new();
    let print = |data: &[u8]| -> io::Result<()> {
        pending.extend_from_slice(data);
        let mut out = io::stdout().lock();
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if args.json {
                out.write_all(&line)?;
            } else {
                let row: filter::watch::SampleRow = serde_json::from_slice(&line)?;
                writeln!(out, "{row}")?;
            }
        }
        out.flush()
    };
    let resource = narrowed("filter/samples", args);
    Ok(ask(async { client(global).follow(&resource, print).await })??)
}

fn filter_test(global: &Global, args: &cli::FilterTest) -> Result<(), Failure> {
    let icmp = if args.src.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    let query = TestQuery {
        peer: args.peer.clone(),
        tunnel: args.tunnel.clone(),
        interface: args.interface.clone(),
        src: args.src,
        dst: args.dst,
        protocol: args.proto.unwrap_or(icmp),
        src_port: args.sport,
        dst_port: args.dport,
        icmp_type: args.icmp_type,
        icmp_code: args.icmp_code,
        fragment: args.fragment,
    };
    let query = serde_urlencoded::to_string(query).map_err(io::Error::other)?;
    let answer = ask(client(global).get(&format!("/v1/filter/test?{query}")))?;
    let mut out = io::stdout().lock();
    if args.json {
        out.write_all(&answer)?;
        writeln!(out)?;
    } else {
        let TestAnswer { interface, sender, library, program, unasked } =
            serde_json::from_slice(&answer)?;
        writeln!(out, "from {} on {interface}", sender.as_deref().unwrap_or("(unknown)"))?;
        writeln!(out, "library: {library}")?;
        if let Some(program) = program {
            writeln!(out, "program: {program}")?;
        }
        if let Some(error) = unasked {
            writeln!(out, "program: not asked: {error}")?;
        }
    }
    Ok(())
}

/// What a file says. Its errors are the answer to `--json`.
fn checked<T>(args: &Check, result: Result<T, ConfigErrors>) -> Result<T, Failure> {
    match result {
        Err(errors) if args.json => {
            writeln!(io::stdout(), "{}", serde_json::to_string(&errors)?)?;
            std::process::exit(EXIT_USAGE.into());
        }
        result => Ok(result?),
    }
}

/// What the running daemon is about to change; without one, or for another configuration than
/// its own, what a start would change.
fn plan(global: &Global, args: &Plan) -> Result<(), Failure> {
    let rows = match get::<Vec<RouteRow>>(global, "/v1/pending") {
        Ok(rows) if args.selection.is_default() => rows,
        Err(failure @ (Failure::Answer(_) | Failure::Io(_))) => return Err(failure),
        _ => {
            let config = args.selection.source().load()?;
            let directory = config_runtime_dir(global, &config);
            oneshot::read(config, &directory)?.pending(None)
        }
    };
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &rows)?;
        writeln!(out)?;
    } else {
        show::plan(&mut out, &rows)?;
    }
    Ok(out.flush()?)
}

fn config_runtime_dir(global: &Global, config: &Config) -> PathBuf {
    global.runtime_dir.clone().unwrap_or_else(|| config.daemon.runtime_dir.clone())
}

fn show_view(global: &Global, args: &Show) -> Result<(), Failure> {
    let name = match args.view {
        View::Status => "status",
        View::Routes => "routes",
        View::Peers => "peers",
        View::Unresolved => "unresolved",
        View::Shadowed => "shadowed",
    };
    let query: Vec<(&str, &str)> =
        args.interface.iter().map(|interface| ("interface", interface.as_str())).collect();
    let answer = ask(client(global).get(&resource(name, &query)))?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        out.write_all(&answer)?;
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    let names = Names::system();
    match args.view {
        View::Status => show::status(&mut out, &serde_json::from_slice(&answer)?, &names)?,
        View::Routes => show::routes(&mut out, &serde_json::from_slice::<Vec<_>>(&answer)?)?,
        View::Peers => show::peers(&mut out, &serde_json::from_slice::<Vec<_>>(&answer)?)?,
        View::Unresolved => {
            show::unresolved(&mut out, &serde_json::from_slice::<Vec<_>>(&answer)?)?;
        }
        View::Shadowed => {
            show::shadowed(&mut out, &serde_json::from_slice::<Vec<_>>(&answer)?, &names)?;
        }
    }
    Ok(out.flush()?)
}

/// Asks the daemon; without one, reads everything itself.
fn explain(global: &Global, args: &Explain) -> Result<(), Failure> {
    let address = args.address.to_string();
    let mut query = vec![("address", address.as_str())];
    query.extend(args.interface.iter().map(|interface| ("interface", interface.as_str())));
    let (mut informant, explanations) = match get(global, &resource("explain", &query)) {
        Err(Failure::Client(ClientError::NoDaemon(_))) => {
            let file = Path::new(defaults::CONFIG_FILE);
            // The kernel's part needs neither a daemon nor a configuration.
            if args.interface.is_none() && !file.exists() {
                (Told::Nothing, Vec::new())
            } else {
                let config = stand_in(args.interface.as_deref(), file)?;
                let directory = config_runtime_dir(global, &config);
                let engine = oneshot::read(config, &directory)?;
                let explanations = engine.explain(args.address, args.interface.as_deref());
                (Told::ByEngine(engine.peers(None)), explanations)
            }
        }
        answer => (Told::ByDaemon(global), answer?),
    };
    // Without a daemon nobody knows which flow a rule belongs to.
    let flows: ExitsStatus = get(global, "/v1/exits").unwrap_or_default();
    let flow = |rule: &IpRule| flows.name_of(rule);
    let labels = Labels { rule: &flow, ..Labels::NONE };
    let answer = explain::explain(args, &mut informant, labels, explanations)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
    } else {
        explain::print::print(&mut out, &answer, &Names::system())?;
    }
    out.flush()?;
    if answer.is_way { Ok(()) } else { Err(Failure::NoWay) }
}

/// Who tells `explain` of peers and the filter.
enum Told<'a> {
    ByDaemon(&'a Global),
    ByEngine(Vec<PeerRow>),
    Nothing,
}

impl Informant for Told<'_> {
    /// Names are a help, not a condition.
    fn peers(&mut self) -> Vec<PeerRow> {
        match self {
            Told::ByDaemon(global) => get(global, "/v1/peers").unwrap_or_default(),
            Told::ByEngine(rows) => std::mem::take(rows),
            Told::Nothing => Vec::new(),
        }
    }

    /// Who is not filtered is refused an answer.
    fn judge(&mut self, query: TestQuery) -> Option<TestAnswer> {
        let Told::ByDaemon(global) = self else { return None };
        let query = serde_urlencoded::to_string(query).ok()?;
        get(global, &format!("/v1/filter/test?{query}")).ok()
    }
}

/// The configuration that a daemon would have.
fn stand_in(interface: Option<&str>, file: &Path) -> Result<Config, ConfigErrors> {
    match (Config::load(file), interface) {
        (Ok(config), _) => Ok(config),
        (Err(_), Some(interface)) if !file.exists() => Ok(Config::for_interfaces(&[interface])),
        (Err(errors), _) => Err(errors),
    }
}

fn completions(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "wgrouted", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

fn man(args: &Man) -> Result<(), Failure> {
    match &args.directory {
        Some(directory) => {
            let written = clap_mangen::generate_to(Cli::command(), directory);
            written.map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", directory.display()))
            })?;
        }
        None => clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?,
    }
    Ok(())
}
