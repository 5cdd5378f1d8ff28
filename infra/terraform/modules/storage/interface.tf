variable "name" { type = string }
variable "kept_days" { type = number }
variable "deletable" { type = bool }

output "bucket" { value = aws_s3_bucket.this.bucket }
output "bucket_arn" { value = aws_s3_bucket.this.arn }
output "key_arn" { value = aws_kms_key.this.arn }
