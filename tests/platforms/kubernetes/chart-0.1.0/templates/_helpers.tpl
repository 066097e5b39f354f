{{/* The name of everything here. */}}
{{- define "keybound.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{/* What tells our pods from others. It must never change. */}}
{{- define "keybound.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "keybound.labels" -}}
{{ include "keybound.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "keybound.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The configuration file. Where it listens is the chart's affair, for the Service and the probes. */}}
{{- define "keybound.config" -}}
{{- $listen := dict "admin" (printf "%s:9003" .Values.address) }}
{{- $fronts := dict "ext_authz" "9001" }}
{{- if .Values.forwardAuth.enabled }}{{ $_ := set $fronts "forward_auth" "9002" }}{{ end }}
{{- range $front, $port := $fronts }}
{{- $address := printf "%s:%s" $.Values.address $port }}
{{- if $.Values.socket.hostPath }}{{ $address = printf "unix:/run/keybound/%s.sock" $front }}{{ end }}
{{- $_ := set $listen $front $address }}
{{- end }}
{{- toYaml (mustMergeOverwrite (deepCopy .Values.config) (dict "listen" $listen)) }}
{{- end }}
