//! Lists the SQL files for the program, so that a new file needs no line in the source: `query` (`src/database.rs`) gets a constant for each
//! statement in `sql/queries`, and `MIGRATIONS` (`src/projection/schema.rs`) each file of `sql/migrations`.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// A file of SQL.
struct SqlFile {
    name: String,
    path: PathBuf,
}

#[expect(clippy::print_stdout, reason = "cargo reads it")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=sql");
    let output = PathBuf::from(env::var("OUT_DIR")?);
    let sql = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("sql");
    fs::write(output.join("queries.rs"), queries(&files(&sql.join("queries"))?)?)?;
    fs::write(
        output.join("migrations.rs"),
        migrations(&files(&sql.join("migrations"))?)?,
    )?;
    Ok(())
}

/// The SQL files of a folder, in the order of their names; folders in it are left out.
fn files(folder: &Path) -> Result<Vec<SqlFile>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let name = path.file_stem().ok_or("a file without a name")?;
            files.push(SqlFile {
                name: name.to_str().ok_or("a name that is no UTF-8")?.to_owned(),
                path,
            });
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// A constant for each statement, documented by the comment at the beginning of its file, and the list of all.
fn queries(files: &[SqlFile]) -> Result<String, Box<dyn Error>> {
    let (mut constants, mut all) = (String::new(), String::new());
    for SqlFile { name, path } in files {
        let text = fs::read_to_string(path)?;
        let comment: Vec<_> = text.lines().map_while(|line| line.strip_prefix("-- ")).collect();
        if comment.is_empty() {
            return Err(format!(
                "{}: expected a comment that says what the statement does",
                path.display()
            )
            .into());
        }
        let (comment, name) = (comment.join("\n"), name.to_uppercase());
        writeln!(
            constants,
            "#[doc = {comment:?}]\npub const {name}: &str = include_str!({path:?});"
        )?;
        writeln!(all, "    {name},")?;
    }
    Ok(format!(
        "{constants}\n/// The statements of one file each.\nconst OF_ONE_FILE: &[&str] = &[\n{all}];\n"
    ))
}

/// The names and texts of the migrations.
fn migrations(files: &[SqlFile]) -> Result<String, Box<dyn Error>> {
    let mut all = String::new();
    for SqlFile { name, path } in files {
        writeln!(all, "    ({name:?}, include_str!({path:?})),")?;
    }
    Ok(format!("&[\n{all}]\n"))
}
