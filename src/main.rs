fn main() -> std::process::ExitCode {
    patchwave::cli::main()
}
