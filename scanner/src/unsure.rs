//! Why a scan does not know what a compile reads. Each reason is a short phrase that statistics count by.

use std::fmt;

/// A reason to ask the compiler itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unsure {
    MissingHeader,
    ErrorDirective,
    UnknownDirective,
    Conditionals,
    Condition,
    IncludeOperand,
    MacroDefinition,
    MacroUse,
    Counter,
    Line,
    FileName,
    TimeOfDay,
    BuiltinMacro,
    RedefinedBuiltin,
    VaOpt,
    Pasting,
    RawString,
    Trigraphs,
    CarriageReturn,
    NulByte,
    UniversalName,
    PragmaOperator,
    Pragma,
    TargetPragma,
    Embed,
    Modules,
    Elifdef,
    PrecompiledHeader,
    NextOfRelative,
    TwoNames,
    SpecialFile,
    Question,
    /// The file system did not answer, or a file changed meanwhile.
    Disk,
    Flag,
    Environment,
    /// The compiler did not say what it predefines or where it searches.
    Probe,
    Depth,
    TooMuch,
    Language,
}

impl Unsure {
    pub fn phrase(self) -> &'static str {
        match self {
            Unsure::MissingHeader => "a header is missing",
            Unsure::ErrorDirective => "an error directive",
            Unsure::UnknownDirective => "an unknown directive",
            Unsure::Conditionals => "unbalanced conditionals",
            Unsure::Condition => "a condition that was not understood",
            Unsure::IncludeOperand => "an include that was not understood",
            Unsure::MacroDefinition => "a macro definition that was not understood",
            Unsure::MacroUse => "a macro use that was not understood",
            Unsure::Counter => "a counter in a condition",
            Unsure::Line => "a line number in a condition",
            Unsure::FileName => "a file name that flags or directives change",
            Unsure::TimeOfDay => "the time in a condition",
            Unsure::BuiltinMacro => "a built-in macro in a condition",
            Unsure::RedefinedBuiltin => "a built-in macro is redefined",
            Unsure::VaOpt => "__VA_OPT__ in a condition",
            Unsure::Pasting => "pasting that makes no token",
            Unsure::RawString => "an odd raw string",
            Unsure::Trigraphs => "trigraphs beside raw strings",
            Unsure::CarriageReturn => "a bare carriage return",
            Unsure::NulByte => "a nul byte",
            Unsure::UniversalName => "a universal character name",
            Unsure::PragmaOperator => "a pragma operator that changes macros",
            Unsure::Pragma => "a pragma that changes look-ups",
            Unsure::TargetPragma => "a pragma that changes the target",
            Unsure::Embed => "an embedded file",
            Unsure::Modules => "modules",
            Unsure::Elifdef => "an elifdef in an old mode",
            Unsure::PrecompiledHeader => "a precompiled header",
            Unsure::NextOfRelative => "an include_next in a relative header",
            Unsure::TwoNames => "a header under two names",
            Unsure::SpecialFile => "an input that is no regular file",
            Unsure::Question => "a question that the compiler did not answer",
            Unsure::Disk => "a file that could not be read",
            Unsure::Flag => "a flag that the scanner does not follow",
            Unsure::Environment => "a variable that the scanner does not follow",
            Unsure::Probe => "a compiler that could not be asked",
            Unsure::Depth => "includes nested too deeply",
            Unsure::TooMuch => "too much to evaluate",
            Unsure::Language => "a language that the scanner does not follow",
        }
    }
}

impl fmt::Display for Unsure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.phrase())
    }
}
