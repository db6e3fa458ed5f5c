{{- define "narthex.labels" -}}
app.kubernetes.io/name: narthex
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
