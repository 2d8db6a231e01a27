//! Lists the SQL files for the program, so that a new file needs no line in the source: `query` (`src/database.rs`) gets a constant for each
//! statement in `sql/queries`, and `MIGRATIONS` (`src/projection/schema.rs`) each file of `sql/migrations`. What is written holds texts and
//! no paths, so that a commit gives the same program in any folder.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The name and the text of a file.
type SqlFile = (String, String);

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=sql");
    let output = PathBuf::from(env::var("OUT_DIR")?);
    let sql = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("sql");
    fs::write(output.join("queries.rs"), queries(&files(&sql.join("queries"))?)?)?;
    let migrations = files(&sql.join("migrations"))?;
    fs::write(output.join("migrations.rs"), format!("&{migrations:?}\n"))?;
    Ok(())
}

/// The SQL files of a folder, in the order of their names; folders in it are left out.
fn files(folder: &Path) -> Result<Vec<SqlFile>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let name = path.file_stem().ok_or("a file without a name")?;
            let name = name.to_str().ok_or("a name that is no UTF-8")?;
            files.push((name.to_owned(), fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

/// A constant for each statement, documented by the comment at the beginning of its file, and the list of all.
fn queries(files: &[SqlFile]) -> Result<String, Box<dyn Error>> {
    let (mut constants, mut all) = (String::new(), String::new());
    for (name, text) in files {
        let comment: Vec<_> = text.lines().map_while(|line| line.strip_prefix("-- ")).collect();
        if comment.is_empty() {
            return Err(format!("{name}.sql: expected a comment that says what the statement does").into());
        }
        let (comment, name) = (comment.join("\n"), name.to_uppercase());
        writeln!(constants, "#[doc = {comment:?}]\npub const {name}: &str = {text:?};")?;
        writeln!(all, "    {name},")?;
    }
    Ok(format!(
        "{constants}\n/// The statements of one file each.\nconst OF_ONE_FILE: &[&str] = &[\n{all}];\n"
    ))
}
