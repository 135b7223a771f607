use std::process::ExitCode;

fn main() -> ExitCode {
    nsd::cli::main(std::env::args_os().skip(1).collect())
}
