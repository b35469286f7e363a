mod deep;

mac::numbers!();

#[allow(unexpected_cfgs)]
fn main() {
    println!("version {} of {}", env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_AUTHORS"));
    println!("option {:?}", option_env!("APP_OPTION"));
    println!("jobs {:?}", option_env!("NUM_JOBS"));
    println!("preloaded {:?}", option_env!("LD_PRELOAD"));
    println!("text {:?}", include_str!("text.txt"));
    println!("bytes {:?}", include_bytes!("../bytes.bin"));
    println!("module {}", deep::place());
    println!("line {}", deep::inner::line());
    println!("externs {} {}", first::name(), second::name());
    println!("native {} {}", native::value(), native::GENERATED);
    println!("build script {} {}", native::FROM_SCRIPT, native::configured());
    println!("plug {}", plug::doubled(21));
    println!("macro file {:?}", mac::file!());
    println!("macro variable {:?}", mac::variable!());
    println!("macro optional {}", mac::optional!());
    println!("macro listing {:?}", mac::listing!());
    println!("derived number {}", NUMBER);
    println!("extra {}", cfg!(feature = "extra"));
    println!("debug {}", cfg!(debug_assertions));
    println!("custom {}", cfg!(custom));
}
