//! Keeps the signatures of signed addresses in the process whose environment gave them.

use super::pipeline::Pipeline;
use super::secret::{is_signed, variable};
use crate::corpus::TableOptions;
use crate::error::{Error, Result};

impl Pipeline {
    /// Takes the signatures out of the tables' addresses: they came from this process's environment and must not travel.
    /// What comes back are the places of those tables.
    pub(crate) fn hide_signatures(&mut self) -> Vec<usize> {
        let tables = self.corpus.tables.iter_mut().enumerate();
        let signed = tables.filter(|(_, table)| is_signed(&table.uri));
        let hide = |(at, table): (usize, &mut TableOptions)| {
            table.uri = table.shown_uri();
            at
        };
        signed.map(hide).collect()
    }

    /// Puts signatures back that [`Pipeline::hide_signatures`] took out elsewhere, from this process's environment.
    ///
    /// # Errors
    /// Config, naming the variable, where it is not set here, or to another address.
    pub(crate) fn find_signatures(
        &mut self,
        hidden: &[usize],
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<()> {
        for at in hidden {
            let table = self.corpus.tables.get_mut(*at).ok_or_else(|| {
                Error::internal(format!("the address of table {at}, which is not there, is signed"))
            })?;
            let name = variable(&format!("corpus.tables.{at}.uri"));
            let mut own = table.clone();
            own.uri = env(&name).unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned();
            if own.shown_uri() != table.uri {
                return Err(Error::config(format!(
                    "table `{}` is read from a signed address, which is sent to no other machine; set {name} in the environment \
                     of every executor to the signed address of {}",
                    table.name, table.uri
                )));
            }
            *table = own;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn signatures_stay_in_their_environment() {
        let text = "version = 1\n[corpus]\nsql = 'SELECT 1'\ntemplate = '{{ body }}'\n\
                    [[corpus.tables]]\nname = 'notes'\nuri = 'notes.jsonl'\n\
                    [[corpus.tables]]\nname = 'tags'\nuri = 'x'\n\
                    [tower]\nmodel = 'fake:8'\npooling = 'mean'\n[publish]\nroot = 'root'\n";
        let variable = "SCALINGNOTE__CORPUS__TABLES__1__URI";
        let signed = "https://host/tags.csv?X-Amz-Signature=SECRET";
        let env = [(variable.to_owned(), signed.to_owned())];
        let resolved =
            crate::config::resolve_text(text, "p.toml", "/p".as_ref(), env, &[]).unwrap();
        let mut pipeline = resolved.pipeline.clone();
        let hidden = pipeline.hide_signatures();
        assert_eq!(hidden, [1]);
        let sent = serde_json::to_string(&pipeline).unwrap();
        assert!(sent.contains("https://host/tags.csv") && !sent.contains("SECRET"), "{sent}");
        for other in [None, Some("https://elsewhere/tags.csv?X-Amz-Signature=SECRET")] {
            let error = pipeline.clone().find_signatures(&hidden, |_| other.map(str::to_owned));
            let said = error.unwrap_err().to_string();
            assert!(said.contains(variable) && said.contains("`tags`"), "{said}");
            assert!(!said.contains("SECRET"), "{said}");
        }
        let here = |name: &str| (name == variable).then(|| format!("'{signed}' "));
        pipeline.find_signatures(&hidden, here).unwrap();
        assert_eq!(pipeline, resolved.pipeline);
    }
}
