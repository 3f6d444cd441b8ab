# Prints the public items of a library from rustdoc's JSON, one per line: the name, and the properties on which users
# rely. Types of other libraries have their full paths. The paths of this library's own types and the names of parameters
# are left out.
. as $doc
| def item: $doc.index[tostring] // empty;
  def canonical:
    walk(
      if type == "object" and has("id") and has("path") then
        {path: ($doc.paths[.id | tostring] | if .crate_id == 0 then .path[-1] else .path | join("::") end), args}
      else . end
    );
  def line($path; $what): "\($path): \($what | canonical | tojson)";
  def list($path):
    .inner
    | if has("module") then
        .module.items[] | item | select(.visibility == "public")
        | if .inner.use.is_glob then .inner.use.id | item | list($path)
          else list("\($path)::\(.inner.use.name // .name)") end
      elif has("use") then
        .use.id | select(. != null) | item | list($path)
      elif has("function") then
        line($path; .function | {inputs: [.sig.inputs[][1]], output: .sig.output, generics, header})
      elif has("struct") or has("enum") or has("union") then
        (keys[0]) as $kind
        | line($path; {($kind): .[$kind] | del(.impls)}),
          (.[$kind].variants[]? | item | line("\($path)::\(.name)"; .inner.variant)),
          (.[$kind].impls[] | item | .inner.impl
            | if .trait == null then
                .items[] | item | select(.visibility == "public") | list("\($path)::\(.name)")
              elif .is_negative or .blanket_impl then
                empty
              else
                line($path; {trait, for, generics, items: [.items[] | item | .inner | select(has("assoc_type"))]})
              end)
      elif has("trait") then
        # An implementation also relies on the set of required methods.
        line($path; .trait | {generics, bounds, is_unsafe, is_dyn_compatible,
          required: [.items[] | item | select(.inner.function.has_body | not) | .name]}),
        (.trait.items[] | item | list("\($path)::\(.name)"))
      else
        line($path; .)
      end;
  $doc.root | item | list("shared_child")
