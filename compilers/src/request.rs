//! What one argv asks for, all its arguments taken together.
//!
//! Reads the arguments in order, once; keeps what planning needs and stops with a reason at the first thing that keeps
//! the call here. Touches the file system only to see whether `-B` and `-include` lead to something special.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::args::passed_on::{self, ToPreprocessor};
use crate::args::row::{Arg, Depend, Effect, SaveTemps};
use crate::language::{self, InputKind};
use crate::{Family, FileKind, Files, Language, Reason};

/// A source among the arguments.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Its place in `Request::args`.
    pub index: usize,
    pub language: Language,
    /// The `-x` that was in force.
    pub explicit: Option<OsString>,
}

/// How far the driver is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// `-c`
    Object,
    /// `-S`
    Assembly,
    /// Neither: on to a link.
    Link,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub family: Family,
    pub args: Vec<Arg>,
    pub sources: Vec<Source>,
    /// Objects, archives, scripts.
    pub linker_files: usize,
    /// `-l`
    pub libraries: usize,
    pub stage: Stage,
    /// `-o`
    pub output: Option<PathBuf>,
    pub depend: DependRequest,
    pub split_dwarf: bool,
    pub coverage: bool,
    pub profile_name: bool,
    pub stack_usage: bool,
    pub call_graph: bool,
    pub optimization_record: bool,
    pub save_temps: Option<SaveTemps>,
    pub lto: bool,
    pub emit_llvm: bool,
    pub native: bool,
    /// Diagnostics are explicitly coloured or plain.
    pub colour_said: bool,
    /// Hyperlinks are explicitly on or off.
    pub urls_said: bool,
    /// The length of diagnostics' lines is given.
    pub width_said: bool,
    /// Options get into the object: colours must not be added unseen.
    pub records_options: bool,
    /// … with all file names, as written.
    pub records_command_line: bool,
    pub extra_inputs: Vec<PathBuf>,
    /// Keeps the tasks on this machine.
    pub here: Option<Reason>,
}

/// What the `-M` family asks for.
#[derive(Debug, Default)]
pub(crate) struct DependRequest {
    pub wanted: bool,
    /// `-MF`, or the file in `-Wp,-MD,file`.
    pub file: Option<PathBuf>,
    /// Came through `-Wp,`: gcc then derives the target's name from the source alone.
    pub by_preprocessor: bool,
}

/// Where and as what the driver was called, as far as it matters here.
pub(crate) struct Setting<'a> {
    pub family: Family,
    pub argv0: &'a OsStr,
    pub cwd: &'a Path,
    pub files: &'a dyn Files,
}

impl Request {
    pub fn read(args: Vec<Arg>, setting: &Setting<'_>) -> Result<Request, Reason> {
        let mut request = Request::nothing(setting.family);
        let mut cxx_driver = language::is_cxx_driver(setting.argv0);
        let mut explicit: Option<(OsString, Language)> = None;
        let mut assembly = false;
        let mut object = false;
        let mut uses_assembler = setting.family == Family::Gcc;
        let mut tool_prefixes = Vec::new();

        for (index, arg) in args.iter().enumerate() {
            let value = arg.value();
            let Some(effect) = arg.effect() else {
                request.input(index, value, &explicit, cxx_driver)?;
                continue;
            };
            match effect {
                Effect::Pass => match arg.words[0].as_bytes() {
                    b"--driver-mode=g++" => cxx_driver = true,
                    word if word.starts_with(b"-fmessage-length") => request.width_said = true,
                    b"-no-integrated-as" | b"-fno-integrated-as" => uses_assembler = true,
                    _ => {}
                },
                Effect::Compile => object = true,
                Effect::Assemble => assembly = true,
                Effect::Output => request.set_output(value)?,
                Effect::Language => {
                    explicit = language::by_name(value)?.map(|language| (value.to_os_string(), language));
                }
                Effect::Depend(depend) => request.depend(*depend, value)?,
                Effect::Link => {}
                Effect::LinkerInput => request.libraries += 1,
                Effect::ExtraInput => request.extra_inputs.push(PathBuf::from(value)),
                Effect::Profile => request.profile(value, setting),
                Effect::Cpu => request.native |= value == "native",
                Effect::ToolPrefix => tool_prefixes.push(value),
                Effect::Include => refuse_clang_pch(value, setting)?,
                Effect::Colour { auto } => request.colour_said = !auto,
                Effect::Urls => request.urls_said = true,
                Effect::RecordsOptions { all } => {
                    request.records_options = true;
                    request.records_command_line |= all;
                }
                Effect::SplitDwarf(on) => {
                    request.split_dwarf = *on;
                    request.records_options |= on;
                }
                Effect::Coverage => request.coverage = true,
                Effect::ProfileName => request.profile_name = true,
                Effect::StackUsage => request.stack_usage = true,
                Effect::CallGraph => request.call_graph = true,
                Effect::OptimizationRecord => request.optimization_record = true,
                Effect::SaveTemps(place) => request.save_temps = Some(*place),
                Effect::Lto(on) => {
                    request.lto = *on;
                    request.records_options |= on;
                }
                Effect::EmitLlvm => request.emit_llvm = true,
                Effect::ToAssembler => passed_on::judge_assembler(value)?,
                Effect::ToPreprocessor => request.pass_to_preprocessor(value)?,
                Effect::ToFrontend => passed_on::judge_frontend(value)?,
                Effect::ToLlvm => passed_on::judge_llvm(value)?,
                Effect::ValueNamesOutput if value.as_bytes().contains(&b'=') => {
                    return Err(Reason::ReportFile);
                }
                Effect::ValueNamesOutput => {}
                Effect::Unknown => return Err(Reason::unknown(&arg.words[0])),
                Effect::Local(reason) => return Err(reason.clone()),
            }
        }

        request.stage = match (object, assembly) {
            (true, true) => return Err(Reason::Contradiction),
            (true, false) => Stage::Object,
            (false, true) => Stage::Assembly,
            (false, false) => Stage::Link,
        };
        if uses_assembler && tool_prefixes.iter().any(|prefix| holds_tools(prefix, setting)) {
            request.here = Some(Reason::OtherTools);
        }
        if request.native {
            request.here = Some(Reason::Native);
        }
        request.args = args;
        Ok(request)
    }

    fn nothing(family: Family) -> Request {
        Request {
            family,
            args: Vec::new(),
            sources: Vec::new(),
            linker_files: 0,
            libraries: 0,
            stage: Stage::Link,
            output: None,
            depend: DependRequest::default(),
            split_dwarf: false,
            coverage: false,
            profile_name: false,
            stack_usage: false,
            call_graph: false,
            optimization_record: false,
            save_temps: None,
            lto: false,
            emit_llvm: false,
            native: false,
            colour_said: false,
            urls_said: false,
            width_said: false,
            records_options: false,
            records_command_line: false,
            extra_inputs: Vec::new(),
            here: None,
        }
    }

    fn input(
        &mut self,
        index: usize,
        name: &OsStr,
        explicit: &Option<(OsString, Language)>,
        cxx_driver: bool,
    ) -> Result<(), Reason> {
        let kind = match explicit {
            Some((_, language)) => InputKind::Source(*language),
            None => language::by_suffix(name, self.family, cxx_driver)?,
        };
        match kind {
            InputKind::ForLinker => self.linker_files += 1,
            InputKind::Source(language) => {
                let explicit = explicit.as_ref().map(|(name, _)| name.clone());
                self.sources.push(Source { index, language, explicit });
            }
        }
        Ok(())
    }

    fn set_output(&mut self, value: &OsStr) -> Result<(), Reason> {
        if value.is_empty() || self.output.is_some() {
            return Err(Reason::Contradiction);
        }
        if value == "-" {
            return Err(Reason::WritesStdout);
        }
        self.output = Some(PathBuf::from(value));
        Ok(())
    }

    fn depend(&mut self, depend: Depend, value: &OsStr) -> Result<(), Reason> {
        match depend {
            Depend::Text => return Ok(()),
            Depend::Write => self.depend.wanted = true,
            Depend::File => self.set_depfile(value)?,
        }
        if self.depend.by_preprocessor { Err(Reason::Contradiction) } else { Ok(()) }
    }

    fn set_depfile(&mut self, value: &OsStr) -> Result<(), Reason> {
        if value == "-" {
            return Err(Reason::WritesStdout);
        }
        if value.is_empty() || self.depend.file.as_ref().is_some_and(|file| file.as_os_str() != value) {
            return Err(Reason::Contradiction);
        }
        self.depend.file = Some(PathBuf::from(value));
        Ok(())
    }

    fn pass_to_preprocessor(&mut self, list: &OsStr) -> Result<(), Reason> {
        if let ToPreprocessor::Depfile(file) = passed_on::judge_preprocessor(list)? {
            if self.depend.wanted || self.depend.file.is_some() {
                return Err(Reason::Contradiction);
            }
            self.depend = DependRequest { wanted: true, file: Some(file), by_preprocessor: true };
        }
        Ok(())
    }

    /// A profile that is one named file is an input like any other. gcc's `.gcda` files are found in a directory by
    /// names made from the output's name: those stay here, where the compile that is watched finds them.
    fn profile(&mut self, value: &OsStr, setting: &Setting<'_>) {
        let named = value.as_bytes().strip_prefix(b"=").map(|name| PathBuf::from(OsStr::from_bytes(name)));
        match named {
            Some(path) if setting.files.kind(&setting.cwd.join(&path)) == Some(FileKind::File) => {
                self.extra_inputs.push(path);
            }
            _ => self.here = Some(Reason::ProfileByName),
        }
    }
}

/// clang uses `x.h.pch` or `x.h.gch` beside the file of `-include x.h`, and checks the times it recorded there.
fn refuse_clang_pch(value: &OsStr, setting: &Setting<'_>) -> Result<(), Reason> {
    let beside = |suffix: &str| {
        let mut name = value.to_os_string();
        name.push(suffix);
        setting.files.kind(&setting.cwd.join(name)).is_some()
    };
    if setting.family == Family::Clang && (beside(".pch") || beside(".gch")) {
        return Err(Reason::ClangPch);
    }
    Ok(())
}

/// Whether the driver would take its tools from there ("-Bprefix": the prefix need not be a directory).
fn holds_tools(prefix: &OsStr, setting: &Setting<'_>) -> bool {
    ["as", "cc1", "cc1plus", "cc1obj", "cc1objplus"].iter().any(|tool| {
        let as_directory = Path::new(prefix).join(tool);
        let mut as_prefix = prefix.to_os_string();
        as_prefix.push(tool);
        [as_directory.as_os_str(), as_prefix.as_os_str()]
            .iter()
            .any(|path| setting.files.kind(&setting.cwd.join(path)) == Some(FileKind::File))
    })
}
